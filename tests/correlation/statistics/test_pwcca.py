"""PWCCA against the formula of Morcos et al. (2018), one step a line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_rows import normal, related
from scipy.linalg import orth
from torch import Tensor

from fmtool.correlation.statistics.base import Options, Prepared
from fmtool.correlation.statistics.pwcca import prepare
from fmtool.errors import StatisticError


def pwcca(x: Tensor, y: Tensor) -> Prepared:
    return prepare(x, y, Options())


def direct(x: Tensor, y: Tensor) -> float:
    """From whitened covariances of the truncated, centred projections, in NumPy."""

    def projected(side: Tensor) -> np.ndarray:  # type: ignore[type-arg]
        _, sizes, directions = np.linalg.svd(side.numpy(), full_matrices=False)
        kept = side.numpy() @ directions[: max(1, int(np.sum(np.cumsum(sizes) / np.sum(sizes) < 0.99)))].T
        return kept - kept.mean(axis=0)

    left, right = projected(x), projected(y)
    values, vectors = np.linalg.eigh(left.T @ left)
    whitening = vectors @ np.diag(values**-0.5) @ vectors.T
    hat = right @ np.linalg.pinv(right)  # projection to the other side's space
    squares, axes = np.linalg.eigh(whitening @ left.T @ hat @ left @ whitening)
    largest = np.argsort(squares)[::-1][: min(left.shape[1], right.shape[1])]
    variates = left @ whitening @ axes[:, largest]
    centred = x.numpy() - x.numpy().mean(axis=0)
    weights = np.array([sum(abs(h @ column) for column in centred.T) for h in variates.T])
    return float(weights @ np.sqrt(np.clip(squares[largest], 0, 1)) / weights.sum())


@pytest.mark.parametrize(("d1", "d2"), [(6, 5), (4, 9)])
def test_equals_direct_code_also_shuffled(d1: int, d2: int) -> None:
    x, y = related(120, d1, d2)
    permutation = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    found = pwcca(x, y)
    # Squared correlations near 0 lose half their digits in the direct code.
    assert found.observed == pytest.approx(direct(x, y), abs=1e-8)
    assert found.shuffled(permutation) == pytest.approx(direct(x, y[permutation]), abs=1e-8)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_rotation_and_scale_of_the_second_side_change_nothing(seed: int, scale: float) -> None:
    x, y = related(40, 12, 10, seed)
    rotation = torch.linalg.qr(normal(10, 10, seed + 7)).Q
    for left, right in (
        (x, y),
        (normal(14, 12, seed), normal(14, 10, seed + 1)),
    ):  # the latter with forced correlations
        assert pwcca(left, scale * (right @ rotation)).observed == pytest.approx(pwcca(left, right).observed, abs=1e-8)
    assert pwcca(scale * x, y).observed == pytest.approx(pwcca(x, y).observed, abs=1e-8)


def test_columns_that_repeat_count_as_often_as_they_occur() -> None:
    x, y = related(120, 6, 5)
    x, y = torch.relu(x), torch.relu(y)
    twice = torch.cat([x, x[:, 1:4], torch.zeros(120, 1, dtype=torch.float64)], dim=1)
    assert pwcca(twice, torch.cat([y, y], dim=1)).observed == pytest.approx(
        direct(twice, torch.cat([y, y], dim=1)), abs=1e-8
    )


def test_weights_are_those_of_the_first_side() -> None:
    x, y = related(80, 6, 5)
    assert pwcca(x, y).observed != pytest.approx(pwcca(y, x).observed, abs=1e-3)
    # A large column that y knows lends its correlation weight.
    large = torch.cat([50 * y[:, :1], x], dim=1)
    assert pwcca(large, y).observed > pwcca(torch.cat([y[:, :1], x], dim=1), y).observed + 0.1


def test_forced_correlations_are_one_with_the_weights_of_the_shared_space() -> None:
    x, y = normal(14, 10), normal(14, 10, 1)
    found = pwcca(x, y)
    k1, k2, forced = (int(found.details[name]) for name in ("directions_x", "directions_y", "forced"))
    assert forced == k1 + k2 - 13 > 0
    # What both sides span, and x's principal axes in there.
    spans = []
    for side in (x, y):
        vectors, sizes, _ = np.linalg.svd(side.numpy(), full_matrices=False)
        kept = vectors[:, : int(np.sum(np.cumsum(sizes) / np.sum(sizes) < 0.99))]
        spans.append(orth(kept - kept.mean(axis=0)))
    left, right = spans
    axes, correlations, _ = np.linalg.svd(left.T @ right)
    variates = left @ axes[:, : min(k1, k2)]
    centred = x.numpy() - x.numpy().mean(axis=0)
    shared = variates[:, :forced]
    variates[:, :forced] = shared @ np.linalg.svd(shared.T @ centred)[0]
    weights = np.abs(variates.T @ centred).sum(axis=1)
    assert found.observed == pytest.approx(float(weights @ correlations / weights.sum()), abs=1e-10)


def test_directions_that_both_sides_share_have_one_weight_each() -> None:
    """The eigenvectors of equal correlations are any basis, which differed between orders of the rows."""
    x, y = related(200, 20, 20)
    y[:, :12] = x[:, :12]
    found = pwcca(x, y).observed
    for seed in range(3):
        rows = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        columns = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        assert pwcca(x[rows][:, columns], y[rows]).observed == pytest.approx(found, abs=1e-9)


def test_errors() -> None:
    with pytest.raises(StatisticError, match=r"^pwcca needs at least 3 rows, got 2$"):
        pwcca(normal(2, 4), normal(2, 4))
    with pytest.raises(StatisticError, match=r"^pwcca needs data that are not all zero, but y is$"):
        pwcca(normal(9, 4), torch.zeros(9, 4, dtype=torch.float64))
    with pytest.raises(StatisticError, match=r"^pwcca needs rows that vary, but the main direction of x is the same"):
        pwcca(torch.ones(9, 4, dtype=torch.float64), normal(9, 4))


@pytest.mark.parametrize("factor", [1e-200, 1e160])
def test_units_do_not_matter_where_correlations_are_forced(factor: float) -> None:
    x, y = related(14, 9, 9)
    assert pwcca(x, y).details["forced"] > 0
    assert pwcca(x * factor, y).observed == pytest.approx(pwcca(x, y).observed, abs=1e-9)
