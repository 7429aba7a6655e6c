"""Canonical correlations of subspaces: against the angles of bases written out, with and without forced ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from paired_rows import normal, order
from scipy.linalg import subspace_angles
from torch import Tensor

from fmtool.correlation.statistics.base import Options
from fmtool.correlation.statistics.canonical import Directions, complement, forced_of, left_singular, prepared_of


def basis(rows: int, columns: int, seed: int = 0) -> Tensor:
    """A centred orthonormal basis (rows, columns)."""
    data = normal(rows, columns, seed)
    return torch.linalg.qr(data - data.mean(dim=0)).Q


def mean_cosine(one: Tensor, other: Tensor) -> float:
    """By SciPy, of all principal angles; those beyond the smaller subspace don't exist."""
    return float(np.cos(subspace_angles(one.numpy(), other.numpy())).mean())


@pytest.mark.parametrize(("k1", "k2", "forced"), [(3, 5, 0), (5, 3, 0), (8, 6, 3), (11, 4, 4), (11, 11, 11)])
def test_the_mean_of_all_cosines_also_shuffled(k1: int, k2: int, forced: int) -> None:
    """Twelve rows have eleven centred dimensions, in which two subspaces may have to meet."""
    x, y, permutation = basis(12, k1), basis(12, k2, 1), order(12)
    found = prepared_of(Directions(x), Directions(y), Options())
    assert found.observed == pytest.approx(mean_cosine(x, y), abs=1e-7)
    assert found.shuffled(permutation) == pytest.approx(mean_cosine(x, y[permutation]), abs=1e-7)
    assert found.details == {"directions_x": k1, "directions_y": k2, "forced": forced} and found.dropped == {}
    assert forced_of(12, k1, k2) == forced


def test_one_direction_is_the_cosine_of_the_angle() -> None:
    x = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64) / math.sqrt(2)
    y = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64) / math.sqrt(2)
    assert prepared_of(Directions(x), Directions(y), Options()).observed == pytest.approx(0.5)


def test_the_complement_is_the_rest_of_the_centred_space() -> None:
    one = basis(9, 3)
    rest = complement(one)
    whole = torch.cat([torch.full((9, 1), 1 / 3, dtype=torch.float64), one, rest], dim=1)
    assert rest.shape == (9, 5)
    torch.testing.assert_close(whole.T @ whole, torch.eye(9, dtype=torch.float64), atol=1e-12, rtol=0.0)


def test_directions_come_in_the_order_of_their_sizes() -> None:
    data = normal(20, 4) * torch.tensor([1.0, 5.0, 2.0, 0.5])
    directions, sizes = left_singular(data)
    assert directions.shape == (20, 4) and sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert sizes.square().sum().item() == pytest.approx(data.square().sum().item())
    torch.testing.assert_close(directions @ (directions.T @ data), data)
