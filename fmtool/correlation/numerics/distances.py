"""Squared distances within a data set: all of them, as a matrix or packed into a triangle, or computed on demand.

Distances are summed from float64 differences, never expanded into |a|^2 - 2ab + |b|^2: at d columns the relative error
is below d * 2^-53 (3e-13 at 3,072), so float32 storage is the only rounding, even for near-duplicates and large offsets,
and duplicates are at exactly 0. The authors' float32 `cdist` expands and loses near
neighbours: a named departure. One thread computes each entry, in one order, so results don't depend on the number of threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, prange
from torch import Tensor

from fmtool.correlation.numerics.numba_cache import CACHE
from fmtool.errors import warn

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

TILE = 16  # rows; two tiles of SPAN columns are 64 KiB, which stays in the processor's nearest caches
SPAN = 256  # columns
FIRST_TILES = 2000  # whose time, some 0.2 s at 3,072 columns, tells that of all others
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


class Keep(Enum):
    """How n rows' distances are stored: n^2 float32 numbers; half of them; or none, each being computed on demand."""

    MATRIX = 4.0
    TRIANGLE = 2.0
    NOTHING = 0.0

    def bytes(self, rows: int) -> float:
        """The memory that this takes."""
        return self.value * rows**2


@dataclass(frozen=True)
class Distances:
    """Squared distances between the n rows of a data set, in one of three forms; the other two arrays are empty.

    matrix: (n, n) float32, infinite on the diagonal. triangle: (n (n - 1) / 2) float32, the entries right of the diagonal,
    row by row. data: (a multiple of TILE, d) float64, zeros below the n rows.
    """

    rows: int
    matrix: Float32
    triangle: Float32
    data: Float64

    def block(self, begin: int, end: int) -> Float32:
        """Distances of rows begin to end, begin a multiple of TILE, to all rows: (end - begin, n) float32, infinite to itself."""
        if len(self.matrix):
            return self.matrix[begin:end]
        block = np.empty((end - begin, self.rows), dtype=np.float32)
        if len(self.triangle):
            _unpack(self.triangle, begin, block)
        else:
            _compute(self.data, begin, block)
        return block

    def of(self, rows: npt.NDArray[np.int64]) -> Distances:
        """Distances between some rows (m) only, ascending, stored in the same form; for all rows, this object itself."""
        if len(rows) == self.rows:
            return self
        matrix, triangle = np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=np.float32)
        if len(self.matrix):
            matrix = self.matrix[np.ix_(rows, rows)]
        elif len(self.triangle):
            triangle = np.empty(len(rows) * (len(rows) - 1) // 2, dtype=np.float32)
            _pick(self.triangle, self.rows, rows, triangle)
        data = np.zeros((-(-len(rows) // TILE) * TILE, self.data.shape[1])) if len(self.data) else self.data
        if len(self.data):
            data[: len(rows)] = self.data[rows]
        return Distances(len(rows), matrix, triangle, data)


def distances(data: Tensor, keep: Keep) -> Distances:
    """Squared distances between the rows of data (n, d) float64."""
    rows, columns = data.shape
    used = data.numpy()[:, (data != 0).any(dim=0).numpy()]  # masks leave many columns 0
    tiles = -(-rows // TILE)
    padded = np.zeros((tiles * TILE, max(used.shape[1], min(columns, 1))))
    padded[:rows, : used.shape[1]] = used
    matrix, triangle = np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=np.float32)
    if keep is Keep.NOTHING:
        return Distances(rows, matrix, triangle, padded)
    if keep is Keep.MATRIX:
        matrix = np.empty((rows, rows), dtype=np.float32)
        np.fill_diagonal(matrix, np.inf)
    else:
        triangle = np.empty(rows * (rows - 1) // 2, dtype=np.float32)
    pairs = np.stack(np.triu_indices(tiles), axis=1)
    first = min(FIRST_TILES, len(pairs))
    _fill(padded, pairs[:0], rows, matrix, triangle)  # compiles, if need be
    started = time.monotonic()
    _fill(padded, pairs[:first], rows, matrix, triangle)
    minutes = (time.monotonic() - started) / first * (len(pairs) - first) / 60
    if minutes > 1:
        warn(f"the distances of {rows} rows take about {minutes:.0f} minutes")
    _fill(padded, pairs[first:], rows, matrix, triangle)
    return Distances(rows, matrix, triangle, np.empty((0, 0)))


@njit(cache=CACHE)
def place(i: int, j: int, rows: int) -> int:
    """The position in the triangle of the distance of rows i and j, i != j."""
    low, high = min(i, j), max(i, j)
    return low * (2 * rows - low - 1) // 2 + high - low - 1


@njit(inline="always")
def squared(matrix: Float32, triangle: Float32, data: Float64, rows: int, i: Any, j: Any) -> Any:
    """The squared distance of rows i and j, i != j, of `Distances`."""
    if len(matrix):
        return matrix[i, j]
    if len(triangle):
        return triangle[place(i, j, rows)]
    return _computed(data[i], data[j])


@njit(fastmath=REORDER, cache=CACHE)
def _computed(one: Float64, other: Float64) -> np.float32:
    total = 0.0
    for k in range(one.shape[0]):
        total += (one[k] - other[k]) ** 2
    return np.float32(total)


@njit(parallel=True, cache=CACHE)
def _fill(padded: Float64, pairs: npt.NDArray[np.int64], rows: int, matrix: Float32, triangle: Float32) -> None:
    """Fill the matrix or the triangle tile by tile; padded (a multiple of TILE, d), pairs (tiles above the diagonal, 2)."""
    for task in prange(len(pairs)):
        top, left = pairs[task, 0] * TILE, pairs[task, 1] * TILE
        block = _tile(padded[top : top + TILE], padded[left : left + TILE])
        for i in range(top, min(top + TILE, rows)):
            start = i * (2 * rows - i - 1) // 2 - i - 1
            for j in range(max(left, i + 1), min(left + TILE, rows)):
                if len(matrix):
                    matrix[i, j] = matrix[j, i] = block[i - top, j - left]
                else:
                    triangle[start + j] = block[i - top, j - left]


@njit(parallel=True, cache=CACHE)
def _unpack(triangle: Float32, begin: int, block: Float32) -> None:
    count, rows = block.shape
    for task in prange(-(-rows // TILE)):
        for j in range(task * TILE, min(task * TILE + TILE, rows)):
            for i in range(begin, begin + count):
                block[i - begin, j] = np.inf if i == j else triangle[place(i, j, rows)]


@njit(parallel=True, cache=CACHE)
def _pick(triangle: Float32, count: int, rows: npt.NDArray[np.int64], picked: Float32) -> None:
    """Fill `picked`, the triangle of some of `count` rows, from the triangle of all of them."""
    for i in prange(len(rows)):
        start = i * (2 * len(rows) - i - 1) // 2 - i - 1
        for j in range(i + 1, len(rows)):
            picked[start + j] = triangle[place(rows[i], rows[j], count)]


@njit(parallel=True, cache=CACHE)
def _compute(padded: Float64, begin: int, block: Float32) -> None:
    count, rows = block.shape
    for task in prange(-(-rows // TILE)):
        left = task * TILE
        for top in range(begin, begin + count, TILE):
            tile = _tile(padded[top : top + TILE], padded[left : left + TILE])
            for i in range(top, min(top + TILE, begin + count)):
                for j in range(left, min(left + TILE, rows)):
                    block[i - begin, j] = np.inf if i == j else tile[i - top, j - left]
