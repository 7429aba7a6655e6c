"""Distance correlation of two data sets (Székely, Rizzo and Bakirov 2007), the square root, as published.

With double-centred Euclidean distances A and B: dCov^2 = mean(A * B), dVar^2 = mean(A * A), and
dCor = sqrt(dCov^2 / sqrt(dVar_x^2 dVar_y^2)). With infinitely many rows it is 0 for independent sets only; with finitely
many, far above 0 with many columns: compare it with its null.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fmtool.correlation.numerics.distances import Keep, distances
from fmtool.correlation.numerics.permuted_matrices import double_centred, permuted_product, precision
from fmtool.correlation.statistics.base import Options, Prepared, half_extents, require_rows
from fmtool.errors import StatisticError

MIN_ROWS = 3  # two rows have one distance: dCor would be 1


def _centred(data: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    """Double-centred distances (n, n) of the rows of data (n, d) float64, in `dtype`; the distances are float32."""
    spread = half_extents(data)
    if not spread.any():
        raise StatisticError(f"dcor needs rows that vary, but those of {what} are all the same")
    used = data[:, spread > 0] / spread.amax()  # neither an offset nor a constant column decides what float32 can hold
    matrix = torch.from_numpy(distances(used, Keep.MATRIX).matrix).fill_diagonal_(0.0)
    return double_centred(matrix.sqrt_().to(dtype))


def prepare(x: Tensor, y: Tensor, options: Options) -> Prepared:
    """dCor of x (n, d1) and y (n, d2) float64, n >= 3, from 0 to 1.

    Squared distances are rounded to float32 (6e-8 of each). A shuffle is one pass over both matrices, n^2 operations; they
    take 16 n^2 bytes, or half of it for large n (`precision`). Raises StatisticError when a side does not vary.
    """
    require_rows("dcor", len(x), MIN_ROWS)
    dtype, device = precision(len(x)), torch.device(options.device)
    of_x, of_y = _centred(x, "x", dtype), _centred(y, "y", dtype)
    same = torch.arange(len(x))
    variances = math.sqrt(permuted_product(of_x, of_x, device)(same) * permuted_product(of_y, of_y, device)(same))
    covariance = permuted_product(of_x, of_y, device)

    def shuffled(permutation: Tensor) -> float:
        return math.sqrt(max(0.0, covariance(permutation)) / variances)  # below 0 by rounding alone

    return Prepared(observed=shuffled(same), details={}, dropped={}, shuffled=shuffled)
