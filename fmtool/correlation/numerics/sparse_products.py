"""Products of two data sets whose entries are mostly 0, the rows of one re-ordered by each shuffle; and columns that repeat.

A mask of 3,072 entries has some 70 that are not 0, and each frequency k beside its equal -k. So the products of all columns of
one side with all columns of the other take some thousand operations a row in place of millions.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from fmtool.correlation.numerics.numba_cache import CACHE
from fmtool.correlation.numerics.threads import one_thread_if

SMALL = 10**6  # multiplications below which a product takes a millisecond and runs on one thread
IN_STEP = 16  # multiplications of a dense matrix product in the time of one here, which may land anywhere in memory


def distinct_columns(data: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of data (n, d) that are not all 0, each of several equal ones once, (n, m), and how often each occurs, (m).

    They keep the order in which they come first.
    """
    columns = data.T.contiguous().numpy()
    keys = [hashlib.blake2b(column).digest() if column.any() else b"" for column in columns]
    first = {key: place for place, key in reversed(list(enumerate(keys))) if key}
    counts = Counter(keys)
    places = sorted(first.values())
    return data[:, places], torch.tensor([float(counts[keys[place]]) for place in places], dtype=data.dtype)


def multiplications(left: Tensor, right: Tensor) -> float:
    """How many multiplications `shuffled_product` needs, on average over permutations."""
    return float((left != 0).sum()) * float((right != 0).sum()) / len(left)


def shuffled_product(left: Tensor, right: Tensor) -> Callable[[Tensor], Tensor]:
    """left.T @ right[p], (m1, m2), as a function of the permutation p (n) int64; left (n, m1), right (n, m2) float64 on the CPU.

    One thread adds up each row of the product, in the order of left's rows: the number of threads changes nothing.
    """
    columns, rows, values = _non_zero(left.T.contiguous())
    starts, others, weights = _non_zero(right)
    shape = left.shape[1], right.shape[1]
    small = multiplications(left, right) < SMALL

    def product(permutation: Tensor) -> Tensor:
        total = np.zeros(shape)
        with one_thread_if(small):
            _add_products(columns, rows, values, starts, others, weights, permutation.numpy(), total)
        return torch.from_numpy(total)

    return product


def _non_zero(data: Tensor) -> tuple[Any, Any, Any]:
    """Where each row of data (n, d) begins in the other two, (n + 1); columns and values of its non-zero entries."""
    rows, columns = data.numpy().nonzero()
    starts = np.searchsorted(rows, np.arange(len(data) + 1))
    return starts, columns.astype(np.int64), data.numpy()[rows, columns]


@njit(parallel=True, cache=CACHE)
def _add_products(
    columns: Any, rows: Any, values: Any, starts: Any, others: Any, weights: Any, order: Any, total: Any
) -> None:
    """Row i of the left side goes with row order[i] of the right one; fills total (m1, m2), which is all 0."""
    for column in prange(len(total)):
        for k in range(columns[column], columns[column + 1]):
            row = order[rows[k]]
            for place in range(starts[row], starts[row + 1]):
                total[column, others[place]] += values[k] * weights[place]
