"""CKA and distance correlation against their textbook formulas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from fmtool.correlation.numerics import permuted_matrices
from fmtool.correlation.statistics import cka, dcor
from fmtool.correlation.statistics.base import Options
from fmtool.errors import StatisticError

Array = npt.NDArray[np.float64]


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def related(rows: int, d1: int, d2: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = normal(rows, d1, seed), normal(rows, d2, seed + 1)
    y[:, 0] += 2 * x[:, 1]
    return x * torch.linspace(1, 3, d1) + 0.5, y - 0.3


def order(rows: int, seed: int = 0) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def cka_of_features(x: Array, y: Array) -> float:
    """Kornblith et al. (2019), equation 4 in terms of columns: |Y'X|^2 / (|X'X| |Y'Y|)."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    between, left, right = (np.linalg.norm(product) for product in (y.T @ x, x.T @ x, y.T @ y))
    return float(between**2 / (left * right))


def dcor_of_means(x: Array, y: Array) -> float:
    """Szekely et al. (2007), definition 4."""

    def centred(data: Array) -> Array:
        a: Array = squareform(pdist(data))
        return a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()

    a, b = centred(x), centred(y)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


# Squared distances of dcor are stored as float32, 6e-8 each.
CASES = [pytest.param(cka, cka_of_features, 1e-12, id="cka"), pytest.param(dcor, dcor_of_means, 1e-7, id="dcor")]


@pytest.mark.parametrize(("module", "formula", "tolerance"), CASES)
@pytest.mark.parametrize(("rows", "d1", "d2"), [(3, 2, 1), (50, 4, 7), (40, 90, 60)])
def test_equals_the_textbook_also_shuffled(
    module: object, formula: object, tolerance: float, rows: int, d1: int, d2: int
) -> None:
    x, y = related(rows, max(d1, 2), d2)
    found = module.prepare(x, y, Options())  # type: ignore[attr-defined]
    permutation = order(rows)
    for other, value in ((y, found.observed), (y[permutation], found.shuffled(permutation))):
        assert value == pytest.approx(formula(x.numpy(), other.numpy()), abs=tolerance)  # type: ignore[operator]


@pytest.mark.parametrize("module", [cka, dcor])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-30, 0.1, 7.0, 1e20]))
def test_rotation_scale_and_shift_change_nothing(module: object, seed: int, scale: float) -> None:
    x, y = related(40, 6, 5, seed)
    rotation = torch.linalg.qr(normal(5, 5, seed + 7)).Q
    before = module.prepare(x, y, Options()).observed  # type: ignore[attr-defined]
    after = module.prepare(x, scale * (y @ rotation + 2.0), Options()).observed  # type: ignore[attr-defined]
    assert after == pytest.approx(before, abs=1e-6)
    same = module.prepare(x, scale * (x + 1.0), Options()).observed  # type: ignore[attr-defined]
    assert same == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("name", "module"), [("cka", cka), ("dcor", dcor)])
def test_errors(name: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(x: Tensor, y: Tensor) -> float:
        return module.prepare(x, y, Options()).observed  # type: ignore[attr-defined, no-any-return]

    with pytest.raises(StatisticError, match=rf"^{name} needs at least 3 rows, got 2$"):
        found(normal(2, 4), normal(2, 4))
    with pytest.raises(StatisticError, match=rf"^{name} needs rows that vary, but those of y are all the same$"):
        found(normal(9, 4), torch.ones(9, 4, dtype=torch.float64))
    x, y = related(30, 4, 3)
    expected = found(x, y)
    monkeypatch.setattr(permuted_matrices, "LARGE", 30)  # from here on float32, whatever memory is free
    assert permuted_matrices.precision(29) == torch.float64 and permuted_matrices.precision(30) == torch.float32
    assert found(x, y) == pytest.approx(expected, abs=1e-6)
