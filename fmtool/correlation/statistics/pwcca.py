"""PWCCA: canonical correlations weighted by what their directions explain of the first side (Morcos et al. 2018).

The correlations are those of SVCCA's main directions, of which there are fewer than rows: with all directions, sparse masks
span the whole centred space and every correlation is necessarily 1, so weights don't matter.

Asymmetric: the weights are x's, as the authors of PWCCA take those of one layer; swap x and y for the other direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.numerics.threads import one_thread_if
from fmtool.correlation.statistics.base import Options, Prepared, non_zero, require_rows
from fmtool.correlation.statistics.canonical import MIN_ROWS, SMALL, forced_of
from fmtool.correlation.statistics.svcca import main_basis


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Weighted mean of the min(k1, k2) canonical correlations, x (n, d1) and y (n, d2) float64, n >= 3.

    With unit canonical variates h_i of x's side (n) and x's centred columns x_j, the weight of correlation i is
    sum_j |<h_i, x_j>|, over the sum of all weights. h_i = Q u_i for x's basis Q, so Q^T x_j is computed once.

    details: directions_x and directions_y, k1 and k2; forced, how many correlations are 1 for any data. The forced
    variates may be any basis of the space that both sides share: x's principal axes in that space are taken (the paper
    leaves it open), so that the weights are fixed. dropped: see `svcca`.

    A shuffle costs a singular value decomposition (k1, k2), with vectors, and a (k, k1) by (k1, d1) product.
    Raises StatisticError when a side is all zero or its kept directions don't vary.
    """
    require_rows("pwcca", len(x), MIN_ROWS)
    basis_x, constant_x = main_basis(x, "x", "pwcca")
    basis_y, constant_y = main_basis(y, "y", "pwcca")
    k1, k2 = basis_x.shape[1], basis_y.shape[1]
    forced = forced_of(len(x), k1, k2)
    used = x[:, (x != 0).any(dim=0)]
    device = torch.device(options.device)
    basis_x, basis_y = basis_x.to(device), basis_y.to(device)
    parts = basis_x.T @ (used - used.mean(dim=0)).to(device)  # (k1, columns)
    squares = parts @ parts.T

    def shuffled(permutation: Tensor) -> float:
        with one_thread_if(min(k1, k2) < SMALL):
            product = basis_x.T @ basis_y[permutation.to(device)]
            axes, correlations, _ = torch.linalg.svd(product, full_matrices=False)
            if forced:
                shared = axes[:, :forced]
                axes[:, :forced] = shared @ torch.linalg.eigh(shared.T @ squares @ shared).eigenvectors
            weights = (axes.T @ parts).abs().sum(dim=1)
        correlations = correlations.clamp(0.0, 1.0)
        correlations[:forced] = 1.0  # without rounding errors
        return float((weights * correlations).sum() / weights.sum())

    return Prepared(
        observed=shuffled(torch.arange(len(x))),
        details={"directions_x": float(k1), "directions_y": float(k2), "forced": float(forced)},
        dropped=non_zero({"constant_x": constant_x, "constant_y": constant_y}),
        shuffled=shuffled,
    )
