"""SVCCA: canonical correlations of the main directions of two data sets (Raghu et al. 2017; paper, section 3.2).

As the authors' code has it: principal directions of the uncentred data, as many as have a cumulative share of the
singular values (not of their squares) below 0.99, then CCA of the centred projections.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fmtool.correlation.numerics.sparse_products import distinct_columns
from fmtool.correlation.numerics.threads import one_thread_if
from fmtool.correlation.statistics.base import Options, Prepared, non_zero, require_rows, within_range
from fmtool.correlation.statistics.canonical import MIN_ROWS, SMALL, Directions, prepared_of
from fmtool.errors import StatisticError

SHARE = 0.99  # of the sum of singular values, which the kept directions stay below
# A unit direction of which centring leaves less than this is constant over the rows (rounding leaves about 3e-8).
CONSTANT = 1e-6


def main_directions(data: Tensor, what: str, name: str = "svcca") -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal left singular vectors (n, k) of data (n, d) float64, not centred.

    k is the number of singular values whose cumulative share is strictly below 0.99, at least 1. name: of the statistic.
    With them, the columns (n, m), scaled, and weights (m, k) of which they are the product. Of columns that repeat, as those of
    masks do at k and -k, one is taken, times the root of their number: singular values and left vectors are the same.
    """
    columns, counts = distinct_columns(data)
    if columns.shape[1] == 0:
        raise StatisticError(f"{name} needs data that are not all zero, but {what} is")
    columns = within_range(columns, columns.abs().amax())  # the statistic has no units
    roots = counts.sqrt()
    with one_thread_if(min(columns.shape) < SMALL):
        directions, sizes, right = torch.linalg.svd(columns * roots, full_matrices=False)
    share = sizes.cumsum(dim=0) / sizes.sum()
    k = max(1, int((share < SHARE).sum()))
    return directions[:, :k], columns, roots[:, None] * right[:k].T / sizes[:k]


def centring(directions: Tensor) -> Tensor:
    """The matrix (k, k), or (k, k - 1) if one direction was constant, that makes orthonormal directions (n, k) orthonormal after
    centring.

    Centring removes one dimension, that of the constant vector, so no second decomposition is needed: reflect the
    directions so that only the first has a mean, and restore the length that centring leaves of it. It is dropped if nothing
    remains of it. CCA sees only the span, so the directions needn't be scaled by the singular values.
    """
    lean = directions.sum(dim=0)  # (k,) how each direction leans to the constant vector
    axis = torch.zeros_like(lean)
    axis[0] = 1.0
    length = lean.norm()
    mirror = lean / length if length > 0 else axis.clone()
    mirror += torch.where(mirror[0] < 0, -axis, axis)  # the sign without cancellation
    mirror /= mirror.norm()
    reflection = torch.eye(len(lean), dtype=lean.dtype) - 2 * torch.outer(mirror, mirror)
    first = directions @ reflection[:, 0]
    left = (first - first.mean()).norm()
    if left < CONSTANT:
        return reflection[:, 1:]
    reflection[:, 0] /= left
    return reflection


def main_basis(data: Tensor, what: str, name: str = "svcca") -> tuple[Directions, int]:
    """The main directions after centring, and how many of them centring removed (0 or 1)."""
    directions, columns, weights = main_directions(data, what, name)
    matrix = centring(directions)
    if matrix.shape[1] == 0:
        raise StatisticError(f"{name} needs rows that vary, but the main direction of {what} is the same in all rows")
    basis = directions @ matrix
    return Directions(basis - basis.mean(dim=0), columns, weights @ matrix), directions.shape[1] - basis.shape[1]


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Mean canonical correlation over the smaller number of directions, x (n, d1) and y (n, d2) float64, n >= 3.

    details: see `canonical.prepared_of`; k1 and k2 are those of the centred projections. dropped: constant_x and
    constant_y, a direction that centring removed (not among k1, k2).

    Raises StatisticError when a side is all zero or its kept directions don't vary.
    """
    require_rows("svcca", len(x), MIN_ROWS)
    basis_x, constant_x = main_basis(x, "x")
    basis_y, constant_y = main_basis(y, "y")
    dropped = non_zero({"constant_x": constant_x, "constant_y": constant_y})
    return replace(prepared_of(basis_x, basis_y, options), dropped=dropped)
