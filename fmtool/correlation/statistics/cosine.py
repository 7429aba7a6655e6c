"""Cosine similarity of paired rows (paper, section 4.5): the mean over pairs.

Non-negative rows, such as masks, have a cosine above 0 with any other: compare the mean with its null, in which rows are
re-paired: the mean cosine of masks of different images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.statistics.base import Options, Prepared, require_rows, within_range
from fmtool.errors import StatisticError

MIN_ROWS = 2  # with a single pair there is no other pairing
# of the histogram of all pairs' cosines: bin k holds -1 + 0.02 k to -1 + 0.02 (k + 1), the last one 1 as well
BINS = 100
BLOCK = 1024  # rows of the matrix of cosines computed at a time in float64, before rounding to float32


def _unit_rows(data: Tensor) -> tuple[Tensor, Tensor]:
    """Rows scaled to unit length (n, d) float64, and which of them are not all zero (n,) bool."""
    scaled = within_range(data, data.abs().amax(dim=1, keepdim=True))
    length = scaled.norm(dim=1, keepdim=True)
    filled = length > 0
    return scaled.div_(torch.where(filled, length, 1.0)), filled[:, 0]


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    """Products of every row of x with every row of y, both (n, d) float64 unit rows: (n, n) float32."""
    cosines = torch.empty(len(x), len(y), dtype=torch.float32)
    for begin in range(0, len(x), BLOCK):
        cosines[begin : begin + BLOCK] = x[begin : begin + BLOCK] @ y.T
    return cosines


def _all_pairs(cosines: Tensor, filled_x: Tensor, filled_y: Tensor) -> Tensor:
    """Histogram (BINS) int64 over [-1, 1] of the cosines (n, n) of row i with row j, i != j, neither of them all zero."""
    counts = torch.zeros(BINS, dtype=torch.int64)
    for begin in range(0, len(cosines), BLOCK):
        block = cosines[begin : begin + BLOCK]
        used = filled_x[begin : begin + BLOCK, None] & filled_y
        used.diagonal(begin).fill_(False)
        places = ((block[used].double() + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)  # rounding may exceed 1
        counts += torch.bincount(places, minlength=BINS)
    return counts


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Mean cosine of the pairs (x_i, y_i), both (n, d) float64, n >= 2.

    Pairs with an all-zero row on either side have no cosine and are left out, separately under each shuffle, and counted
    for the observed pairing as all_zero. details: std, the population standard deviation over the pairs. All pairs'
    cosines are computed once (4 n^2 bytes) and rounded to float32 (6e-8); a shuffle only looks n of them up.
    samples: pairs (n used,) float64, the pairs' cosines, and all_pairs_histogram (100,) int64, how many cosines of row i of x
    with row j of y, i != j, lie in each of 100 equal bins from -1 to 1: what single pairs look like by chance.

    Raises StatisticError when the numbers of columns differ, or when so many rows are all zero that some pairing might
    consist of nothing else.
    """
    require_rows("cosine", len(x), MIN_ROWS)
    if x.shape[1] != y.shape[1]:
        raise StatisticError(f"cosine needs as many columns in y as in x, {x.shape[1]}, got {y.shape[1]}")
    unit_x, filled_x = _unit_rows(x)
    unit_y, filled_y = _unit_rows(y)
    zero_x, zero_y = int((~filled_x).sum()), int((~filled_y).sum())
    if zero_x + zero_y >= len(x):
        raise StatisticError(
            f"cosine needs fewer all-zero rows in both sides together than there are pairs, got {zero_x} in x and "
            f"{zero_y} in y of {len(x)}"
        )
    cosines = _cosines(unit_x, unit_y)
    row = torch.arange(len(x))

    def paired(permutation: Tensor) -> Tensor:
        return cosines[row, permutation][filled_x & filled_y[permutation]].double()

    observed = paired(row)
    left_out = len(x) - len(observed)
    return Prepared(
        observed=float(observed.mean()),
        details={"std": float(observed.std(correction=0))},
        dropped={"all_zero": left_out} if left_out else {},
        shuffled=lambda permutation: float(paired(permutation).mean()),
        samples={"pairs": observed, "all_pairs_histogram": _all_pairs(cosines, filled_x, filled_y)},
    )
