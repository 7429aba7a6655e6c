"""SVCCA: canonical correlations of the main directions of two data sets (Raghu et al. 2017; paper, section 3.2).

As the authors' code has it: principal directions of the uncentred data, as many as have a cumulative share of the
singular values (not of their squares) below 0.99, then CCA of the centred projections.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fmtool.correlation.prepared import Options, Prepared, non_zero, require_rows
from fmtool.correlation.threads import one_thread_if
from fmtool.errors import StatisticError

SHARE = 0.99  # of the sum of singular values, which the kept directions stay below
MIN_ROWS = 3  # two centred rows lie on one line: every correlation would be 1
# A unit direction of which centring leaves less than this is constant over the rows (rounding leaves about 3e-8).
CONSTANT = 1e-6
# Directions or rows below which decompositions run on one thread. At 600 that takes 1.5 times as long as on two idle
# processors, and a tenth as long where they are shared with other work (see threads.py); at 300 it is as fast anyway.
SMALL = 700


def main_directions(data: Tensor, what: str) -> Tensor:
    """Orthonormal left singular vectors (n, k) of data (n, d) float64, not centred.

    k is the number of singular values whose cumulative share is strictly below 0.99, at least 1.
    """
    used = data[:, (data != 0).any(dim=0)]  # a column of zeros adds no direction; masks have many
    if used.shape[1] == 0:
        raise StatisticError(f"svcca needs data that are not all zero, but {what} is")
    directions: Tensor
    with one_thread_if(min(used.shape) < SMALL):
        directions, sizes, _ = torch.linalg.svd(used, full_matrices=False)
    share = sizes.cumsum(dim=0) / sizes.sum()
    return directions[:, : max(1, int((share < SHARE).sum()))]


def centred_basis(directions: Tensor) -> Tensor:
    """Orthonormal basis of orthonormal directions (n, k) after centring: (n, k), or (n, k - 1) if one was constant.

    Centring removes one dimension, that of the constant vector, so no second decomposition is needed: reflect the
    directions so that only the first has a mean, centre that one and restore its length. It is dropped if nothing of
    it is left. CCA sees the span alone, so the singular values needn't multiply the directions.
    """
    lean = directions.sum(dim=0)  # (k,) how each direction leans to the constant vector
    axis = torch.zeros_like(lean)
    axis[0] = 1.0
    length = lean.norm()
    mirror = lean / length if length > 0 else axis.clone()
    mirror += torch.where(mirror[0] < 0, -axis, axis)  # the sign without cancellation
    mirror /= mirror.norm()
    basis = directions - 2 * torch.outer(directions @ mirror, mirror)
    basis -= basis.mean(dim=0)
    left = basis[:, 0].norm()
    if left < CONSTANT:
        return basis[:, 1:]
    basis[:, 0] /= left
    return basis


def complement(basis: Tensor) -> Tensor:
    """Orthonormal basis (n, n - 1 - k) of the centred space outside a centred orthonormal basis (n, k)."""
    constant = torch.ones(len(basis), 1, dtype=basis.dtype)
    whole: Tensor = torch.linalg.qr(torch.cat([constant, basis], dim=1), mode="complete").Q
    return whole[:, 1 + basis.shape[1] :]


def _basis(data: Tensor, what: str) -> tuple[Tensor, int]:
    """Centred basis (n, k) of the main directions, and how many directions centring took away (0 or 1)."""
    directions = main_directions(data, what)
    basis = centred_basis(directions)
    if basis.shape[1] == 0:
        raise StatisticError(f"svcca needs rows that vary, but the main direction of {what} is the same in all rows")
    return basis.contiguous(), directions.shape[1] - basis.shape[1]


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Mean canonical correlation over the smaller number of directions, x (n, d1) and y (n, d2) float64, n >= 3.

    details: directions_x and directions_y, k1 and k2, of the centred projections; forced, how many of the min(k1, k2)
    correlations are 1 whatever the data, as two subspaces of n - 1 centred dimensions share k1 + k2 - (n - 1) or more.
    dropped: constant_x and constant_y, a direction that centring took away (not among k1, k2).

    A shuffle costs one (k1, n) by (n, k2) product and its singular values. Where correlations are forced, both sides
    are replaced by their complements, whose correlations are all the others (the same principal angles): the masks of
    a few hundred images leave few directions out, so the product is far smaller.

    Raises StatisticError when a side is all zero or its kept directions don't vary.
    """
    require_rows("svcca", len(x), MIN_ROWS)
    basis_x, constant_x = _basis(x, "x")
    basis_y, constant_y = _basis(y, "y")
    dropped = non_zero({"constant_x": constant_x, "constant_y": constant_y})
    return replace(prepared_of(basis_x, basis_y, options), dropped=dropped)


def prepared_of(basis_x: Tensor, basis_y: Tensor, options: Options) -> Prepared:
    """The same from centred orthonormal bases (n, k1) and (n, k2)."""
    rows = len(basis_x)
    k1, k2 = basis_x.shape[1], basis_y.shape[1]
    forced = max(0, k1 + k2 - (rows - 1))
    if forced:
        basis_x, basis_y = complement(basis_x), complement(basis_y)
    device = torch.device(options.device)
    basis_x, basis_y = basis_x.to(device), basis_y.to(device)

    def shuffled(permutation: Tensor) -> float:
        with one_thread_if(min(basis_x.shape[1], basis_y.shape[1]) < SMALL):
            product = basis_x.T @ basis_y[permutation.to(device)]
            correlations = torch.linalg.svdvals(product).clamp(0.0, 1.0)
        return (forced + float(correlations.sum())) / min(k1, k2)

    return Prepared(
        observed=shuffled(torch.arange(rows)),
        details={"directions_x": float(k1), "directions_y": float(k2), "forced": float(forced)},
        dropped={},
        shuffled=shuffled,
    )
