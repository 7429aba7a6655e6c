"""CKA against its textbook formula."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from paired_rows import normal, order, related
from torch import Tensor

from fmtool.correlation.statistics import cka
from fmtool.correlation.statistics.base import Options
from fmtool.errors import StatisticError

Array = npt.NDArray[np.float64]


def observed(x: Tensor, y: Tensor) -> float:
    return cka.prepare(x, y, Options()).observed


def of_features(x: Array, y: Array) -> float:
    """Kornblith et al. (2019), equation 4 in terms of columns: |Y'X|^2 / (|X'X| |Y'Y|)."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    between, left, right = (np.linalg.norm(product) for product in (y.T @ x, x.T @ x, y.T @ y))
    return float(between**2 / (left * right))


@pytest.mark.parametrize(("rows", "d1", "d2"), [(3, 2, 1), (50, 4, 7), (40, 90, 60)])
def test_equals_the_textbook_also_shuffled(rows: int, d1: int, d2: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows of the Gram matrix are computed at a time."""
    x, y = related(rows, d1, d2)
    permutation = order(rows)
    for block in (1024, 17):
        monkeypatch.setattr(cka, "BLOCK", block)
        found = cka.prepare(x, y, Options())
        assert found.observed == pytest.approx(of_features(x.numpy(), y.numpy()), abs=1e-12)
        expected = of_features(x.numpy(), y[permutation].numpy())
        assert found.shuffled(permutation) == pytest.approx(expected, abs=1e-12)


def test_errors() -> None:
    with pytest.raises(StatisticError, match=r"^cka needs at least 3 rows, got 2$"):
        observed(normal(2, 4), normal(2, 4))
    with pytest.raises(StatisticError, match=r"^cka needs rows that vary, but those of y are all the same$"):
        observed(normal(9, 4), torch.ones(9, 4, dtype=torch.float64))
