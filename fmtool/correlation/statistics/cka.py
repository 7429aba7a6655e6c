"""CKA: linear centred kernel alignment of two data sets (Kornblith et al. 2019), the biased estimator as published.

With the Gram matrices K and L of the centred rows: sum(K * L) / (|K| |L|), Frobenius norms. It is far above 0 by chance
where there are more columns than rows, because every row is similar to itself: compare it with its null.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.correlation.numerics.permuted_matrices import permuted_product, precision
from fmtool.correlation.statistics.base import Options, Prepared, require_rows, within_range
from fmtool.errors import StatisticError

BLOCK = 1024  # rows of a Gram matrix computed at a time in float64, before rounding
MIN_ROWS = 3  # two centred rows are opposite, on either side: CKA would be 1


def _gram(data: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    """Products (n, n) of the centred rows of data (n, d) float64, in `dtype`, scaled to a Frobenius norm of 1."""
    used = data[:, data.amin(dim=0) != data.amax(dim=0)]
    if used.shape[1] == 0:
        raise StatisticError(f"cka needs rows that vary, but those of {what} are all the same")
    used = within_range(used, used.abs().max())  # no overflow or underflow at any scale
    used = used - used.mean(dim=0)
    used = used / used.norm()
    gram = torch.empty(len(used), len(used), dtype=dtype)
    for begin in range(0, len(used), BLOCK):
        gram[begin : begin + BLOCK] = used[begin : begin + BLOCK] @ used.T
    return gram.div_(float(gram.norm(dtype=torch.float64)))


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """Linear CKA of x (n, d1) and y (n, d2) float64, n >= 3, from 0 to 1.

    A shuffle is one pass over both matrices, n^2 operations; they take 16 n^2 bytes, or half of it for large n
    (`precision`; entries are then rounded by 6e-8 of themselves). Raises StatisticError when a side does not vary.
    """
    require_rows("cka", len(x), MIN_ROWS)
    dtype = precision(len(x))
    shuffled = permuted_product(_gram(x, "x", dtype), _gram(y, "y", dtype), torch.device(options.device))
    return Prepared(observed=shuffled(torch.arange(len(x))), details={}, dropped={}, shuffled=shuffled)
