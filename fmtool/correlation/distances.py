"""Squared distances within a data set, and nearest neighbours of a concatenation without computing any more of them.

The squared distance of two rows of [x, y] is the sum of the squared distances of their x and of their y. So the two
(n, n) matrices are computed once, and a shuffle of y's rows is one pass that gathers, adds and keeps the two smallest
of each row.

Distances are summed from float64 differences, never expanded into |a|^2 - 2ab + |b|^2: at d columns the relative error
is below d * 2^-53 (3e-13 at 3,072), so float32 storage is all the rounding there is, near-duplicates and large offsets
included, and duplicates are at exactly 0. The authors' float32 `cdist` expands, and loses near neighbours (DESIGN,
section 4). Each entry is computed by one thread in one order: results don't depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

from fmtool.correlation.compiled import CACHE
from fmtool.correlation.threads import one_thread_if

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

TILE = 16  # rows; two tiles of SPAN columns are 64 KiB, which stays in the processor's nearest caches
SPAN = 256  # columns
SMALL = 1000  # rows below which a shuffle takes a millisecond and is left to one thread
# Lets the compiler keep several partial sums, without which a sum isn't vectorised. Not the full "fast math": the
# infinities on the diagonal are real.
REORDER = {"reassoc", "contract", "nsz"}


@njit(fastmath=REORDER, cache=CACHE)
def _to_four(
    point: Float64, one: Float64, two: Float64, three: Float64, four: Float64
) -> tuple[float, float, float, float]:
    """Squared distances of one row to four others, all (columns,): each entry of `point` is loaded once for four."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for k in range(point.shape[0]):
        a += (point[k] - one[k]) ** 2
        b += (point[k] - two[k]) ** 2
        c += (point[k] - three[k]) ** 2
        d += (point[k] - four[k]) ** 2
    return a, b, c, d


@njit(cache=CACHE)
def _tile(left: Float64, right: Float64) -> Float64:
    """Squared distances (TILE, TILE) between the rows of two tiles (TILE, d)."""
    total = np.zeros((TILE, TILE))
    columns = left.shape[1]
    for begin in range(0, columns, SPAN):
        end = min(begin + SPAN, columns)
        for j in range(0, TILE, 4):
            one, two = right[j, begin:end], right[j + 1, begin:end]
            three, four = right[j + 2, begin:end], right[j + 3, begin:end]
            for i in range(TILE):
                a, b, c, d = _to_four(left[i, begin:end], one, two, three, four)
                total[i, j] += a
                total[i, j + 1] += b
                total[i, j + 2] += c
                total[i, j + 3] += d
    return total


@njit(parallel=True, cache=CACHE)
def _fill(padded: Float64, pairs: npt.NDArray[np.int64], squared: Float32) -> None:
    """Fill `squared` (n, n) tile by tile; padded (a multiple of TILE, d), pairs (tiles above the diagonal, 2)."""
    rows = squared.shape[0]
    for task in prange(len(pairs)):
        top, left = pairs[task, 0] * TILE, pairs[task, 1] * TILE
        block = _tile(padded[top : top + TILE], padded[left : left + TILE])
        for i in range(min(TILE, rows - top)):
            for j in range(min(TILE, rows - left)):
                squared[top + i, left + j] = block[i, j]
                squared[left + j, top + i] = block[i, j]


def squared_distances(data: Tensor) -> Float32:
    """Squared Euclidean distances between the rows of data (n, d) float64: (n, n) float32, symmetric.

    The diagonal is infinite, so that no point is its own neighbour.
    """
    rows, columns = data.shape
    tiles = -(-rows // TILE)
    padded = np.zeros((tiles * TILE, columns))
    padded[:rows] = data.numpy()
    squared = np.empty((rows, rows), dtype=np.float32)
    _fill(padded, np.stack(np.triu_indices(tiles), axis=1), squared)
    np.fill_diagonal(squared, np.inf)
    return squared


def two_nearest(squared: Float32) -> Float32:
    """The two smallest entries of each row, ascending: (n, n) -> (n, 2) float32."""
    return torch.from_numpy(squared).topk(2, dim=1, largest=False, sorted=True).values.numpy()


@njit(parallel=True, cache=CACHE)
def _joint(x: Float32, y: Float32, permutation: npt.NDArray[np.uint32], nearest: Float32) -> None:
    """Two smallest of x[i, j] + y[permutation[i], permutation[j]] over j, into nearest (n, 2).

    Two rows go together, as they read the same part of the permutation; of an odd number the last goes with itself.
    Where i = j both terms are infinite.
    """
    rows = x.shape[0]
    for pair in prange((rows + 1) // 2):
        i = 2 * pair
        k = min(i + 1, rows - 1)
        x_i, y_i, first_i, second_i = x[i], y[permutation[i]], np.float32(np.inf), np.float32(np.inf)
        x_k, y_k, first_k, second_k = x[k], y[permutation[k]], np.float32(np.inf), np.float32(np.inf)
        for j in range(rows):
            partner = permutation[j]
            at_i = x_i[j] + y_i[partner]
            at_k = x_k[j] + y_k[partner]
            if at_i < second_i:
                if at_i < first_i:
                    first_i, second_i = at_i, first_i
                else:
                    second_i = at_i
            if at_k < second_k:
                if at_k < first_k:
                    first_k, second_k = at_k, first_k
                else:
                    second_k = at_k
        nearest[i, 0], nearest[i, 1] = first_i, second_i
        nearest[k, 0], nearest[k, 1] = first_k, second_k


def two_nearest_joint(x: Float32, y: Float32, permutation: Tensor) -> Float32:
    """Squared distances to the two nearest neighbours in the concatenation of x's rows with y's shuffled rows.

    x, y: (n, n) float32 from `squared_distances`; permutation (n,) int64: row i of x goes with row permutation[i] of
    y. Returns (n, 2) float32, ascending.
    """
    nearest = np.empty((len(x), 2), dtype=np.float32)
    # Unsigned 32-bit indices: half the memory traffic, and no test for a negative one.
    with one_thread_if(len(x) < SMALL):
        _joint(x, y, permutation.numpy().astype(np.uint32), nearest)
    return nearest
