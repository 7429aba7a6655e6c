"""What the statistics of canonical correlations share: the correlations of two subspaces, given by orthonormal bases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fmtool.correlation.numerics.sparse_products import IN_STEP, multiplications, shuffled_product
from fmtool.correlation.numerics.threads import one_thread_if
from fmtool.correlation.statistics.base import Options, Prepared

MIN_ROWS = 3  # two centred rows lie on one line: every correlation would be 1
# Directions or rows below which decompositions run on one thread. At 600 that takes 1.5 times as long as on two idle
# processors, and a tenth as long if they are shared with other work (see threads.py); at 300 it makes no difference.
SMALL = 700


@dataclass(frozen=True)
class Directions:
    """A centred orthonormal basis (n, k) of a side and, if known, how it follows from the side's columns.

    basis = (columns - their means) @ weights, for columns (n, m) and weights (m, k).
    """

    basis: Tensor
    columns: Tensor | None = None
    weights: Tensor | None = None


def left_singular(data: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (n, k) of data (n, d) float64 and singular values (k), largest first, k = min(n, d)."""
    directions: Tensor
    sizes: Tensor
    with one_thread_if(min(data.shape) < SMALL):
        directions, sizes, _ = torch.linalg.svd(data, full_matrices=False)
    return directions, sizes


def forced_of(rows: int, k1: int, k2: int) -> int:
    """How many correlations are 1 for any data: two subspaces of the n - 1 centred dimensions share that many."""
    return max(0, k1 + k2 - (rows - 1))


def complement(basis: Tensor) -> Tensor:
    """Orthonormal basis (n, n - 1 - k) of the centred space outside a centred orthonormal basis (n, k)."""
    constant = torch.ones(len(basis), 1, dtype=basis.dtype)
    whole: Tensor = torch.linalg.qr(torch.cat([constant, basis], dim=1), mode="complete").Q
    return whole[:, 1 + basis.shape[1] :]


def product_of(x: Directions, y: Directions, device: torch.device) -> Callable[[Tensor], Tensor]:
    """x.basis.T @ y.basis[p], (k1, k2), as a function of the permutation p (n) int64.

    That takes n k1 k2 multiplications. Where columns are sparse, as masks are, it is faster to multiply the columns
    and then to apply the weights of both sides: about k1 m1 m2 + k1 m2 k2, whatever n. The results differ by rounding, magnified
    by the square of the largest over the smallest singular value: 1e-12 for masks, of which a share of 0.99 is kept.
    """
    basis_x, basis_y = x.basis.to(device), y.basis.to(device)

    def dense(permutation: Tensor) -> Tensor:
        return basis_x.T @ basis_y[permutation.to(device)]

    if x.columns is None or y.columns is None or x.weights is None or y.weights is None or device.type != "cpu":
        return dense
    (m1, k1), (m2, k2) = x.weights.shape, y.weights.shape
    if IN_STEP * multiplications(x.columns, y.columns) + k1 * m2 * (m1 + k2) > len(basis_x) * k1 * k2:
        return dense
    products = shuffled_product(x.columns, y.columns)
    by_chance = len(basis_x) * torch.outer(x.columns.mean(dim=0), y.columns.mean(dim=0))
    left, right = x.weights.T.contiguous(), y.weights
    return lambda permutation: left @ (products(permutation) - by_chance) @ right


def prepared_of(x: Directions, y: Directions, options: Options) -> Prepared:
    """Mean canonical correlation from centred orthonormal bases (n, k1) and (n, k2), over the smaller of k1 and k2.

    details: directions_x and directions_y, k1 and k2; forced, how many of the min(k1, k2) correlations are 1 whatever the
    data, as two subspaces of n - 1 centred dimensions share k1 + k2 - (n - 1) or more.

    A shuffle costs one (k1, n) by (n, k2) product or less, see `product_of`, and its singular values. Where correlations are
    forced, both sides are replaced by their complements, whose correlations are all the others (the same principal angles): the
    masks of a few hundred images leave few directions out, so the product is far smaller.
    """
    rows = len(x.basis)
    k1, k2 = x.basis.shape[1], y.basis.shape[1]
    forced = forced_of(rows, k1, k2)
    if forced:
        x, y = Directions(complement(x.basis)), Directions(complement(y.basis))
    small = min(x.basis.shape[1], y.basis.shape[1]) < SMALL
    product = product_of(x, y, torch.device(options.device))

    def shuffled(permutation: Tensor) -> float:
        with one_thread_if(small):
            correlations = torch.linalg.svdvals(product(permutation)).clamp(0.0, 1.0)
        return (forced + float(correlations.sum())) / min(k1, k2)

    return Prepared(
        observed=shuffled(torch.arange(rows)),
        details={"directions_x": float(k1), "directions_y": float(k2), "forced": float(forced)},
        dropped={},
        shuffled=shuffled,
    )
