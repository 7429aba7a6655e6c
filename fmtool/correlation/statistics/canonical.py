"""What the statistics of canonical correlations share: the correlations of two subspaces, given by orthonormal bases."""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.numerics.threads import one_thread_if
from fmtool.correlation.statistics.base import Options, Prepared

MIN_ROWS = 3  # two centred rows lie on one line: every correlation would be 1
# Directions or rows below which decompositions run on one thread. At 600 that takes 1.5 times as long as on two idle
# processors, and a tenth as long if they are shared with other work (see threads.py); at 300 it makes no difference.
SMALL = 700


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


def prepared_of(basis_x: Tensor, basis_y: Tensor, options: Options) -> Prepared:
    """Mean canonical correlation from centred orthonormal bases (n, k1) and (n, k2), over the smaller of k1 and k2.

    details: directions_x and directions_y, k1 and k2; forced, how many of the min(k1, k2) correlations are 1 whatever the
    data, as two subspaces of n - 1 centred dimensions share k1 + k2 - (n - 1) or more.

    A shuffle costs one (k1, n) by (n, k2) product and its singular values. Where correlations are forced, both sides
    are replaced by their complements, whose correlations are all the others (the same principal angles): the masks of
    a few hundred images leave few directions out, so the product is far smaller.
    """
    rows = len(basis_x)
    k1, k2 = basis_x.shape[1], basis_y.shape[1]
    forced = forced_of(rows, k1, k2)
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
