"""IdCor's dimensions by the estimators of scikit-dimension 0.5, with their defaults, in place of TwoNN.

Each shuffle's concatenation is a new data set, whose dimension is estimated anew. The points of x and y are first rotated to
their principal axes, which preserves all distances and leaves at most n - 1 columns.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmtool.correlation.registry import DIMENSIONS
from fmtool.correlation.statistics.base import Options, Prepared, non_zero, require_rows
from fmtool.correlation.statistics.canonical import left_singular
from fmtool.errors import StatisticError

MIN_ROWS = 22  # scikit-dimension's estimators use 20 neighbours, and silently fewer if there are no more


def estimate(data: npt.NDArray[np.float64], name: str, what: str) -> float:
    """Dimension of the rows of data (n, d), all different, n >= 22, by the estimator of that name in DIMENSIONS.

    what: name of the data, for the message. Estimators that draw random numbers do so from seed 0 each time.
    Raises StatisticError if the estimator returns no positive number.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # too few neighbours and missing results are reported here
        import skdim

        estimator: Any = getattr(skdim.id, DIMENSIONS[name][0])()
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=0)
        # a single column is refused; adding one of zeros changes no distance
        value = float(estimator.fit(np.pad(data, ((0, 0), (0, max(0, 2 - data.shape[1]))))).dimension_)
    if not math.isfinite(value) or value <= 0:
        raise StatisticError(f"--dimension {name} gives {value} as the dimension of {what}, expected a number above 0")
    return value


def principal_axes(data: Tensor) -> npt.NDArray[np.float64]:
    """Rows of data (n, d) float64 in coordinates with the same distances: (n, at most n - 1)."""
    used = data[:, (data != 0).any(dim=0)]
    if used.shape[1] < len(data):
        return used.numpy()
    directions, sizes = left_singular(used - used.mean(dim=0))
    return (directions * sizes)[:, :-1].numpy()  # n centred rows have rank n - 1


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """IdCor of standardised x (n, d1) and y (n, d2) float64 by an estimator other than TwoNN.

    Equal rows are at distance 0, for which most estimators return 0, infinity or NaN: one row of each group of equal rows is
    kept, separately under each shuffle. dropped: duplicates_x, duplicates_y and duplicates_joint, how many were left out
    (TwoNN's count includes the one that is kept here). details: as for TwoNN.

    Raises StatisticError if fewer than 22 different rows are left, or if an estimate is not a positive number.
    """
    name = options.dimension
    require_rows(f"idcor by {name}", len(x), MIN_ROWS)
    group_x, group_y = _groups(x), _groups(y)
    points_x, points_y = principal_axes(x), principal_axes(y)
    unique_x, unique_y = _first_of_each(group_x), _first_of_each(group_y)
    of_x = _dimension(points_x[unique_x], name, "x")
    of_y = _dimension(points_y[unique_y], name, "y")

    def joint(permutation: Tensor, what: str) -> tuple[float, int]:
        order = permutation.numpy()
        unique = _first_of_each(group_x * len(order) + group_y[order])
        points = np.concatenate([points_x, points_y[order]], axis=1)[unique]
        return _dimension(points, name, what), len(order) - len(unique)

    of_joint, duplicates = joint(torch.arange(len(x)), "the concatenation")
    larger = max(of_x, of_y)
    return Prepared(
        observed=(of_x + of_y - of_joint) / larger,
        details={"dimension_x": of_x, "dimension_y": of_y, "dimension_joint": of_joint},
        dropped=non_zero(
            {
                "duplicates_x": len(x) - len(unique_x),
                "duplicates_y": len(x) - len(unique_y),
                "duplicates_joint": duplicates,
            }
        ),
        shuffled=lambda permutation: (of_x + of_y - joint(permutation, "a shuffled concatenation")[0]) / larger,
    )


def _dimension(points: npt.NDArray[np.float64], name: str, what: str) -> float:
    if len(points) < MIN_ROWS:
        raise StatisticError(f"idcor by {name} needs at least {MIN_ROWS} different rows, {what} has {len(points)}")
    return estimate(points, name, what)


def _groups(data: Tensor) -> npt.NDArray[np.int64]:
    """A number for each row (n), the same for equal rows."""
    groups: npt.NDArray[np.int64] = np.unique(data.numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    return groups


def _first_of_each(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which rows come first in their group, ascending."""
    first: npt.NDArray[np.int64] = np.sort(np.unique(groups, return_index=True)[1])
    return first
