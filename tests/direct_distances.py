"""Squared distances in float64, written out, and all those of `distances` as one matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmtool.correlation.numerics.distances import Keep, distances


def direct(data: Tensor) -> npt.NDArray[np.float32]:
    """All squared distances from float64 differences, rounded once; infinite on the diagonal."""
    squared = ((data[:, None] - data[None]) ** 2).sum(dim=2).float()
    return squared.fill_diagonal_(torch.inf).numpy()


def squared_distances(data: Tensor, keep: Keep = Keep.MATRIX) -> npt.NDArray[np.float32]:
    """All of them as a matrix, block by block."""
    found = distances(data, keep)
    return np.concatenate([found.block(begin, min(begin + 32, len(data))) for begin in range(0, len(data), 32)])
