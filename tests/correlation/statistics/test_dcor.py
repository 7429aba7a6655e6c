"""Distance correlation against its textbook formula."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from paired_rows import normal, order, related
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from fmtool.correlation.statistics import dcor
from fmtool.correlation.statistics.base import Options
from fmtool.errors import StatisticError

Array = npt.NDArray[np.float64]


def observed(x: Tensor, y: Tensor) -> float:
    return dcor.prepare(x, y, Options()).observed


def of_means(x: Array, y: Array) -> float:
    """Székely et al. (2007), definition 4."""

    def centred(data: Array) -> Array:
        a: Array = squareform(pdist(data))
        return a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()

    a, b = centred(x), centred(y)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


@pytest.mark.parametrize(("rows", "d1", "d2"), [(3, 2, 1), (50, 4, 7), (40, 90, 60)])
def test_equals_the_textbook_also_shuffled(rows: int, d1: int, d2: int) -> None:
    """Squared distances are stored as float32, 6e-8 each."""
    x, y = related(rows, d1, d2)
    found, permutation = dcor.prepare(x, y, Options()), order(rows)
    assert found.observed == pytest.approx(of_means(x.numpy(), y.numpy()), abs=1e-7)
    assert found.shuffled(permutation) == pytest.approx(of_means(x.numpy(), y[permutation].numpy()), abs=1e-7)


def test_errors() -> None:
    with pytest.raises(StatisticError, match=r"^dcor needs at least 3 rows, got 2$"):
        observed(normal(2, 4), normal(2, 4))
    with pytest.raises(StatisticError, match=r"^dcor needs rows that vary, but those of y are all the same$"):
        observed(normal(9, 4), torch.ones(9, 4, dtype=torch.float64))


@pytest.mark.parametrize("constant", [1e23, 1e300])
def test_a_constant_column_changes_nothing(constant: float) -> None:
    """Such as a fill value, beside which float32 cannot hold the distances of the other columns."""
    x, y = related(60, 3, 4)
    filled = torch.cat([x, torch.full((60, 1), constant, dtype=torch.float64)], dim=1)
    assert observed(filled, y) == observed(x, y)
