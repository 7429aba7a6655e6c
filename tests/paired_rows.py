"""Drawn rows of two data sets for the tests of statistics."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    """(rows, columns) float64."""
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def related(rows: int, d1: int, d2: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets that share a direction, with columns of different means and spreads."""
    x, y = normal(rows, d1, seed), normal(rows, d2, seed + 1)
    y[:, 0] += 2 * x[:, 1]
    return x * torch.linspace(1, 3, d1) + 0.5, y * torch.linspace(2, 1, d2) - 0.3


def order(rows: int, seed: int = 0) -> Tensor:
    """A permutation."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def rotated(y: Tensor, scale: float, seed: int) -> Tensor:
    """The same rows turned, shifted and scaled."""
    d = y.shape[1]
    return scale * (y @ torch.linalg.qr(normal(d, d, seed)).Q + 2.0)
