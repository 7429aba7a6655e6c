"""Sums over all pairs of rows, for statistics that compare two n x n matrices, one of them re-ordered by each shuffle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

from fmtool.correlation.numerics.numba_cache import CACHE
from fmtool.correlation.numerics.threads import one_thread_if

LARGE = 12_000  # rows from which matrices are float32: two of them take 2.3 GB in float64
SMALL = 3000  # rows below which a shuffle takes a few milliseconds and runs on one thread
GPU_BLOCK_ENTRIES = 2**26  # of a matrix on a GPU, re-ordered at a time: 512 MiB in float64


def precision(rows: int) -> torch.dtype:
    """The dtype in which two matrices (n, n) are stored: float64, or float32 from `LARGE` rows on. It depends on n alone, so that
    the same command gives the same bytes on any machine.
    """
    return torch.float64 if rows < LARGE else torch.float32


def permuted_product(left: Tensor, right: Tensor, device: torch.device) -> Callable[[Tensor], float]:
    """Sum over all i, j of left[i, j] right[p[i], p[j]], both (n, n) symmetric, as a function of the permutation p (n) int64."""
    if device.type != "cpu":
        return _on_gpu(left.to(device), right.to(device))
    one, other = left.numpy(), right.numpy()

    def product(permutation: Tensor) -> float:
        with one_thread_if(len(one) < SMALL):
            return float(_row_sums(one, other, permutation.numpy()).sum())

    return product


@njit(parallel=True, cache=CACHE)
def _row_sums(left: Any, right: Any, order: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each row's contribution, (n,): its diagonal entry and twice the entries left of it. One thread sums each, in one order."""
    sums = np.empty(len(left))
    for row in prange(len(left)):
        i = (
            len(left) - 1 - row // 2 if row % 2 else row // 2
        )  # alternately long and short, so that threads have equal shares
        along, across = left[i], right[order[i]]
        total = 0.0
        for j in range(i):
            total += np.float64(along[j]) * np.float64(across[order[j]])
        sums[i] = 2 * total + np.float64(along[i]) * np.float64(across[order[i]])
    return sums


def _on_gpu(left: Tensor, right: Tensor) -> Callable[[Tensor], float]:
    step = max(1, GPU_BLOCK_ENTRIES // len(left))

    def product(permutation: Tensor) -> float:
        order = permutation.to(left.device)
        total = torch.zeros((), dtype=torch.float64, device=left.device)
        for begin in range(0, len(order), step):
            block = right[order[begin : begin + step]][:, order]
            total += (left[begin : begin + step] * block).sum(dtype=torch.float64)
        return float(total)

    return product


def double_centred(matrix: Tensor) -> Tensor:
    """The symmetric matrix (n, n) minus the mean of every row and column, in place."""
    means = matrix.mean(dim=0, dtype=torch.float64)
    shift = means - means.mean() / 2
    for begin in range(0, len(matrix), 1024):
        rows = matrix[begin : begin + 1024]
        rows -= (shift[begin : begin + 1024, None] + shift).to(matrix.dtype)
    return matrix
