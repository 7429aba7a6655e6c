"""CCA: canonical correlations of all directions of two data sets (paper, section 3.2).

With fewer than twice as many rows as directions, some correlations are necessarily 1, and `forced` counts them; with n - 1
directions, as up to some 1,500 masks have, all of them are, and the statistic is refused. SVCCA's choice of main directions, or
far more rows, avoid this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.statistics.base import Options, Prepared, require_rows, within_range
from fmtool.correlation.statistics.canonical import MIN_ROWS, Directions, forced_of, left_singular, prepared_of
from fmtool.errors import StatisticError


def all_directions(data: Tensor, what: str) -> Tensor:
    """Orthonormal basis (n, k) of the centred columns of data (n, d) float64; k is their numerical rank.

    Singular values up to max(n, d) * 2.2e-16 of the largest are rounding, the usual bound (NumPy's `matrix_rank`).
    """
    varies = data.amin(dim=0) != data.amax(dim=0)
    if not varies.any():
        raise StatisticError(f"cca needs rows that vary, but those of {what} are all the same")
    used = data[:, varies]
    used = within_range(used, used.abs().max())
    centred = used - used.mean(dim=0)
    # again: the mean of a large offset is rounded, and what that leaves in every row would count as a direction
    directions, sizes = left_singular(centred - centred.mean(dim=0))
    significant = sizes > max(data.shape) * torch.finfo(data.dtype).eps * sizes[0]
    return directions[:, significant].contiguous()


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Mean canonical correlation over the smaller number of directions, x (n, d1) and y (n, d2) float64, n >= 3.

    details, cost and forced correlations: see `canonical.prepared_of`. Raises StatisticError when a side does not vary, or
    when all correlations are 1 by force.
    """
    require_rows("cca", len(x), MIN_ROWS)
    basis_x, basis_y = all_directions(x, "x"), all_directions(y, "y")
    k1, k2 = basis_x.shape[1], basis_y.shape[1]
    if forced_of(len(x), k1, k2) == min(k1, k2):
        raise StatisticError(
            f"cca of {len(x)} rows is 1 whatever the data: with {k1} and {k2} directions, all {min(k1, k2)} correlations are "
            "forced; use svcca, or more rows"
        )
    return prepared_of(Directions(basis_x), Directions(basis_y), options)
