"""IdCor, the intrinsic-dimension correlation (Basile et al., I_dCor, arXiv 2406.15812; paper, section 3.2).

If one data set says something about the other, their concatenation needs fewer dimensions than the two separately:
IdCor = (d_x + d_y - d_joint) / max(d_x, d_y), all three dimensions by TwoNN unless another estimator is chosen. It is 1
when one set determines the other and would be 0 for independent ones if dimensions were exact; estimates err in
either direction, so compare it with its null.
Even then beware of classes. A free shuffle turns a few well-separated clusters into many small ones, and their joint
dimension looks smaller: data that share a class can lie below their free null (p near 1), and the null within classes,
which leaves the clusters intact, is the one to use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.numerics import neighbours
from fmtool.correlation.numerics.two_nn import MIN_POINTS, two_nn
from fmtool.correlation.statistics import idcor_skdim
from fmtool.correlation.statistics.base import Options, Prepared, half_extents, non_zero, require_rows, within_range

STD_OFFSET = 1e-6  # added to each column's standard deviation, as the authors do
# Masks extend up to 1, between these: only other data, in smaller or larger units, are scaled.
USUAL = (1e-3, 1e3)
# Standardised entries are of order 1, so a root mean square below this is rounding of a row at the centre.
ROUNDING = 1e-12


def standardise(data: Tensor, row_normalise: bool) -> Tensor:
    """Columns to mean 0 and unbiased standard deviation 1, then rows to unit length: (n, d) float64 -> the same.

    A constant column becomes exactly 0. A row at the centre in every column stays 0 (the authors' code makes it NaN).
    The rows of one-column data are not scaled, which would leave only signs.
    """
    columns, data = data.shape[1], _in_usual_units(data)
    scaled = (data - data.mean(dim=0)) / (data.std(dim=0) + STD_OFFSET)
    scaled[:, data.amin(dim=0) == data.amax(dim=0)] = 0.0  # instead of rounding errors
    if not row_normalise or columns == 1:
        return scaled
    length = scaled.norm(dim=1, keepdim=True)
    centre = length <= ROUNDING * columns**0.5
    return torch.where(centre, 0.0, scaled / torch.where(centre, 1.0, length))


def _in_usual_units(data: Tensor) -> Tensor:
    """Data whose columns all extend less than `USUAL` divided by a power of two, so that the offset doesn't outweigh them; and
    each column that extends beyond it by one of its own, so that no square overflows. Where zero lies decides nothing.
    """
    spread = half_extents(data)
    if not spread.any():
        return data
    if spread.amax() < USUAL[0] / 2:
        return within_range(data, 2 * spread.amax())
    return torch.where(spread > USUAL[1], within_range(data, spread), data)


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """IdCor of x (n, d1) and y (n, d2), float64, n >= 10.

    details: dimension_x, dimension_y, dimension_joint. dropped: points that TwoNN can't use, duplicates_* (r1 = 0)
    and ties_* (r1 = r2), for x, y and joint each. A shuffle leaves dimension_x and dimension_y as they are.
    Estimators other than TwoNN: see `idcor_skdim`.

    subset: columns stay standardised over all rows and distances are not computed again, so that the subset of all rows gives
    exactly the whole's value. A departure: the authors standardise each subset anew (their Figure 4).

    Needs 4 n^2 bytes for all distances, or does without them, see `neighbours`. Raises StatisticError if TwoNN does.
    """
    require_rows("idcor", len(x), MIN_POINTS)
    scaled_x, scaled_y = (standardise(data, options.row_normalise) for data in (x, y))
    if options.dimension != "twonn":
        return idcor_skdim.prepare(scaled_x, scaled_y, options)
    return _by_two_nn(neighbours.prepare(scaled_x, scaled_y, torch.device(options.device)))


def _by_two_nn(pair: neighbours.Pair) -> Prepared:
    of_x = two_nn(pair.x, "x")
    of_y = two_nn(pair.y, "y")
    larger = max(of_x.value, of_y.value)

    def shuffled(permutation: Tensor) -> float:
        joint = two_nn(pair.joint(permutation), "a shuffled concatenation")
        return (of_x.value + of_y.value - joint.value) / larger

    def subset(rows: Tensor) -> Prepared:
        require_rows("idcor", len(rows), MIN_POINTS)
        return _by_two_nn(pair.subset(rows))

    of_joint = two_nn(pair.joint(torch.arange(len(pair.x))), "the concatenation")
    return Prepared(
        observed=(of_x.value + of_y.value - of_joint.value) / larger,
        details={"dimension_x": of_x.value, "dimension_y": of_y.value, "dimension_joint": of_joint.value},
        dropped=non_zero(
            {
                "duplicates_x": of_x.duplicates,
                "duplicates_y": of_y.duplicates,
                "duplicates_joint": of_joint.duplicates,
                "ties_x": of_x.ties,
                "ties_y": of_y.ties,
                "ties_joint": of_joint.ties,
            }
        ),
        shuffled=shuffled,
        subset=subset,
    )
