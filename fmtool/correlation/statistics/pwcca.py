"""PWCCA: canonical correlations weighted by what their directions explain of the first side (Morcos et al. 2018).

The correlations are those of SVCCA's main directions, of which there are fewer than rows: with all directions, sparse masks
span the whole centred space and every correlation is necessarily 1, so weights don't matter.

Asymmetric: the weights are x's, as the authors of PWCCA take those of one layer; swap x and y for the other direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.numerics.sparse_products import distinct_columns
from fmtool.correlation.numerics.threads import one_thread_if
from fmtool.correlation.statistics.base import Options, Prepared, non_zero, require_rows, within_range
from fmtool.correlation.statistics.canonical import MIN_ROWS, SMALL, forced_of, product_of
from fmtool.correlation.statistics.svcca import main_basis

SHARED = 1 - 1e-9  # a correlation above it is 1: rounding leaves some 1e-12


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Weighted mean of the min(k1, k2) canonical correlations, x (n, d1) and y (n, d2) float64, n >= 3.

    With unit canonical variates h_i of x's side (n) and x's centred columns x_j, the weight of correlation i is
    sum_j |<h_i, x_j>|, over the sum of all weights. h_i = Q u_i for x's basis Q, so Q^T x_j is computed once.

    details: directions_x and directions_y, k1 and k2; forced, how many correlations are 1 for any data. The variates whose
    correlation is 1, forced or not, may be any basis of the space that both sides share: x's principal axes in that space are
    taken (the paper leaves it open), so that the weights are fixed. dropped: see `svcca`.

    A shuffle costs a product of both sides (`canonical.product_of`), the eigenvectors of a matrix (k1, k1), and a (k, k1) by
    (k1, m) product, where m is the number of different columns of x.
    Raises StatisticError when a side is all zero or its kept directions don't vary.
    """
    require_rows("pwcca", len(x), MIN_ROWS)
    side_x, constant_x = main_basis(x, "x", "pwcca")
    side_y, constant_y = main_basis(y, "y", "pwcca")
    k1, k2 = side_x.basis.shape[1], side_y.basis.shape[1]
    forced = forced_of(len(x), k1, k2)
    device = torch.device(options.device)
    product_with = product_of(side_x, side_y, device)
    columns, counts = (part.to(device) for part in distinct_columns(x))
    columns = within_range(columns, columns.abs().amax())  # weights are relative to their sum
    parts = side_x.basis.to(device).T @ (columns - columns.mean(dim=0))  # (k1, m)
    squares = (parts * counts) @ parts.T

    def shuffled(permutation: Tensor) -> float:
        with one_thread_if(min(k1, k2) < SMALL):
            product = product_with(permutation)
            # left singular vectors, the largest value first; by way of the square, at less than half the cost
            axes = torch.linalg.eigh(product @ product.T).eigenvectors.flip(1)[:, : min(k1, k2)]
            correlations = (axes.T @ product).norm(dim=1).clamp(0.0, 1.0)  # not the roots of squares, which lose digits
            shared = max(forced, int((correlations > SHARED).sum()))
            if shared:
                of_both = axes[:, :shared]
                axes[:, :shared] = of_both @ torch.linalg.eigh(of_both.T @ squares @ of_both).eigenvectors
            weights = (axes.T @ parts).abs() @ counts
        correlations[:shared] = 1.0  # without rounding errors
        return float((weights * correlations).sum() / weights.sum())

    return Prepared(
        observed=shuffled(torch.arange(len(x))),
        details={"directions_x": float(k1), "directions_y": float(k2), "forced": float(forced)},
        dropped=non_zero({"constant_x": constant_x, "constant_y": constant_y}),
        shuffled=shuffled,
    )
