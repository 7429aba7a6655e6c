"""The two nearest neighbours in the concatenation of one data set with any shuffle of another, computing no distance again.

The squared distance of two rows of [x, y] is the sum of the squared distances of their x and of their y. So each side's
distances are computed once, and each row's nearest neighbours on each side sorted once. A shuffle then walks down the two
lists of a row together, looks up for each entry the distance on the other side, and stops when the sum of the distances that
it has reached on both lists is no less than the second smallest so far: no pair beyond can be nearer (the threshold
algorithm of Fagin, Lotem and Naor 2003). At n = 10,000 that is some 30 of 9,999 entries for independent normal data, and
about sqrt(n) of them for low-dimensional data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

from fmtool.correlation.numerics.distances import TILE, Distances, Float32, Float64, Keep, distances, squared
from fmtool.correlation.numerics.numba_cache import CACHE
from fmtool.correlation.numerics.threads import one_thread_if
from fmtool.errors import warn

Index = npt.NDArray[np.uint32]

SMALL = 3000  # rows below which a shuffle takes a millisecond and is left to one thread
BLOCK_ENTRIES = 2**23  # of a block of distances that is sorted at a time: 32 MiB
GPU_BLOCK_ENTRIES = 2**27  # of both matrices on a GPU, added at a time: 512 MiB
# a row's list holds max(64, 4 sqrt(n)) neighbours; beyond its end all rows are compared
LEAST_DEPTH, DEPTH_PER_ROOT = 64, 4
AHEAD, ROWS_A_TASK = 8, 64  # entries of a list fetched before they are compared; rows per task of a thread
FREE = 2**31  # bytes that count as free where the system doesn't tell
SHARE_OF_MEMORY = 0.8  # of the free memory, for the distances of both data sets


@dataclass(frozen=True)
class Side:
    """A data set's distances, and each row's nearest rows (n, depth), nearest first, with their squared distances."""

    distances: Distances
    nearest: Index
    at: Float32

    @property
    def two_nearest(self) -> Float32:
        """(n, 2) float32 squared distances to each row's two nearest, ascending."""
        return self.at[:, :2].copy()


@dataclass(frozen=True)
class Pair:
    """What `idcor` needs of two data sets: (n, 2) float32 squared distances to two nearest neighbours, ascending."""

    x: Float32
    y: Float32
    joint: Callable[[Tensor], Float32]  # of x beside y[permutation], for a permutation (n) int64
    subset: Callable[
        [Tensor], Pair
    ]  # the same among some rows alone (m) int64, m >= 3, ascending; computes no distance again


def prepare(x: Tensor, y: Tensor, device: torch.device) -> Pair:
    """x (n, d1) and y (n, d2) float64, n >= 3. Takes 8 n^2 bytes, on the CPU only 4 n^2 or none if less memory is free."""
    if device.type != "cpu":
        return _on_gpu(x, y, device)
    free = SHARE_OF_MEMORY * free_memory()
    keep = next((keep for keep in Keep if 2 * keep.bytes(len(x)) <= free), Keep.NOTHING)
    if keep is Keep.NOTHING:
        warn(
            f"idcor: the distances of {len(x)} rows, {4e-9 * len(x) ** 2:.1f} GB, do not fit in memory and are computed "
            "again for each permutation"
        )
    return _pair(side(x, keep), side(y, keep))


def _pair(x: Side, y: Side) -> Pair:
    def subset(rows: Tensor) -> Pair:
        return _pair(*(_sorted(side.distances.of(rows.numpy()), None) for side in (x, y)))

    return Pair(x.two_nearest, y.two_nearest, lambda permutation: two_nearest_joint(x, y, permutation), subset)


def side(data: Tensor, keep: Keep, depth: int | None = None) -> Side:
    """Distances and sorted neighbours of data (n, d) float64; depth: entries per list, by default derived from n."""
    return _sorted(distances(data, keep), depth)


def _sorted(all_distances: Distances, depth: int | None) -> Side:
    rows = all_distances.rows
    depth = min(depth or max(LEAST_DEPTH, DEPTH_PER_ROOT * math.isqrt(rows)), rows - 1)
    nearest, at = np.empty((rows, depth), dtype=np.uint32), np.empty((rows, depth), dtype=np.float32)
    step = max(TILE, BLOCK_ENTRIES // rows // TILE * TILE)
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        top = torch.from_numpy(all_distances.block(begin, end)).topk(depth, dim=1, largest=False, sorted=True)
        at[begin:end], nearest[begin:end] = top.values.numpy(), top.indices.numpy()
    return Side(all_distances, nearest, at)


def two_nearest_joint(x: Side, y: Side, permutation: Tensor) -> Float32:
    """Squared distances (n, 2) to the two nearest neighbours of each row of x beside y[permutation], ascending."""
    two_nearest = np.empty((len(permutation), 2), dtype=np.float32)
    forth = permutation.numpy().astype(np.uint32)
    back = np.empty_like(forth)
    back[forth] = np.arange(len(forth), dtype=np.uint32)
    with one_thread_if(len(forth) < SMALL):
        _joint(
            x.distances.matrix, x.distances.triangle, x.distances.data, x.nearest, x.at,
            y.distances.matrix, y.distances.triangle, y.distances.data, y.nearest, y.at,
            forth, back, two_nearest,
        )  # fmt: skip
    return two_nearest


@njit(parallel=True, cache=CACHE)
def _joint(
    x: Float32, x_half: Float32, x_data: Float64, x_nearest: Index, x_at: Float32,
    y: Float32, y_half: Float32, y_data: Float64, y_nearest: Index, y_at: Float32,
    forth: Index, back: Index, two_nearest: Float32,
) -> None:  # fmt: skip
    """Row i of x goes with row forth[i] of y, row j of y with row back[j] of x; fills two_nearest (n, 2)."""
    rows, depth = x_at.shape
    tasks = -(-rows // ROWS_A_TASK)
    for task in prange(tasks):
        who, at = np.empty(2 * AHEAD, dtype=np.int64), np.empty(2 * AHEAD, dtype=np.float32)
        for i in range(task * ROWS_A_TASK, min((task + 1) * ROWS_A_TASK, rows)):
            own = np.int64(forth[i])
            first, second = np.float32(np.inf), np.float32(np.inf)
            whose, seconds = -1, -1  # the rows of x at these distances, so that a row in both lists counts once
            done = False
            for begin in range(0, depth, AHEAD):
                count = min(AHEAD, depth - begin)
                for k in range(count):  # fetch everything that is far apart in memory together
                    j = np.int64(x_nearest[i, begin + k])
                    other = np.int64(back[y_nearest[own, begin + k]])
                    who[2 * k], who[2 * k + 1] = j, other
                    at[2 * k] = x_at[i, begin + k] + squared(y, y_half, y_data, rows, own, np.int64(forth[j]))
                    at[2 * k + 1] = y_at[own, begin + k] + squared(x, x_half, x_data, rows, i, other)
                for k in range(2 * count):
                    if at[k] < second and who[k] != whose and who[k] != seconds:
                        if at[k] < first:
                            first, second, whose, seconds = at[k], first, who[k], whose
                        else:
                            second, seconds = at[k], who[k]
                if x_at[i, begin + count - 1] + y_at[own, begin + count - 1] >= second:
                    done = True
                    break
            if not done and depth < rows - 1:
                first, second = np.float32(np.inf), np.float32(np.inf)
                for row in range(rows):
                    if row != i:
                        sum_ = squared(x, x_half, x_data, rows, i, row) + squared(
                            y, y_half, y_data, rows, own, np.int64(forth[row])
                        )
                        if sum_ < first:
                            first, second = sum_, first
                        elif sum_ < second:
                            second = sum_
            two_nearest[i, 0], two_nearest[i, 1] = first, second


def free_memory() -> int:
    """Bytes available without swapping, if the system reports them; else half of the installed memory, or `FREE`."""
    try:
        with open("/proc/meminfo") as lines:
            sizes = dict(line.split(":", 1) for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        if not hasattr(os, "sysconf"):  # Windows
            return FREE
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _on_gpu(x: Tensor, y: Tensor, device: torch.device) -> Pair:
    """Both matrices on the device, float32 from float64 differences; a shuffle is one pass over both."""
    return _pair_of_matrices(_matrix(x.to(device)), _matrix(y.to(device)))


def _pair_of_matrices(x: Tensor, y: Tensor) -> Pair:
    device = x.device

    def two_smallest(block: Tensor) -> Tensor:
        first, place = block.min(dim=1)
        second = block.scatter(1, place[:, None], torch.inf).amin(dim=1)
        return torch.stack([first, second], dim=1)

    def joint(permutation: Tensor) -> Float32:
        order = permutation.to(device)
        step = max(1, GPU_BLOCK_ENTRIES // len(order))
        parts = [
            two_smallest(x[begin : begin + step] + y[order[begin : begin + step]][:, order])
            for begin in range(0, len(order), step)
        ]
        two_nearest: Float32 = torch.cat(parts).cpu().numpy()
        return two_nearest

    def subset(rows: Tensor) -> Pair:
        picked = rows.to(device)
        return _pair_of_matrices(x[picked][:, picked], y[picked][:, picked])

    of_x, of_y = (two_smallest(matrix).cpu().numpy() for matrix in (x, y))
    return Pair(of_x, of_y, joint, subset)


def _matrix(data: Tensor) -> Tensor:
    """Squared distances (n, n) float32, infinite on the diagonal."""
    matrix = torch.empty(len(data), len(data), dtype=torch.float32, device=data.device)
    for begin in range(0, len(data), 512):
        block = torch.cdist(data[begin : begin + 512], data, compute_mode="donot_use_mm_for_euclid_dist")
        matrix[begin : begin + 512] = block.square_()
    return matrix.fill_diagonal_(torch.inf)
