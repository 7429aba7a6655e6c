"""CCA against scikit-learn's and against the textbook's eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_rows import normal, related
from sklearn.cross_decomposition import CCA
from torch import Tensor

from fmtool.correlation.statistics.base import Options, Prepared
from fmtool.correlation.statistics.cca import all_directions, prepare
from fmtool.errors import StatisticError


def cca(x: Tensor, y: Tensor) -> Prepared:
    return prepare(x, y, Options())


def test_equals_scikit_learn() -> None:
    x, y = related(300, 6, 5)
    u, v = CCA(n_components=5, scale=False, max_iter=20_000, tol=1e-14).fit_transform(x.numpy(), y.numpy())
    expected = np.mean([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(5)])
    # scikit-learn iterates and deflates, one component after the other.
    assert cca(x, y).observed == pytest.approx(expected, abs=1e-6)


def test_equals_the_eigenvalues_of_the_textbook_also_shuffled() -> None:
    x, y = related(200, 9, 4, seed=3)
    permutation = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    for other, found in ((y, cca(x, y).observed), (y[permutation], cca(x, y).shuffled(permutation))):
        left, right = x - x.mean(dim=0), other - other.mean(dim=0)
        product = torch.linalg.inv(left.T @ left) @ (left.T @ right) @ torch.linalg.inv(right.T @ right)
        squares = torch.linalg.eigvals(product @ (right.T @ left)).real.sort(descending=True).values[:4]
        assert found == pytest.approx(float(squares.clamp(min=0).sqrt().mean()), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_no_invertible_map_changes_anything(seed: int, scale: float) -> None:
    x, y = related(60, 6, 5, seed)
    stretched = torch.linalg.qr(normal(5, 5, seed + 7)).Q * torch.tensor([0.1, 1, 2, 5, 10], dtype=torch.float64)
    assert cca(x, scale * (y @ stretched) + 3.0).observed == pytest.approx(cca(x, y).observed, abs=1e-9)


def test_rank_is_that_of_the_centred_columns() -> None:
    x = normal(30, 4)
    wide = torch.cat([x, x[:, :2] + x[:, 2:], torch.ones(30, 3, dtype=torch.float64)], dim=1)
    basis = all_directions(wide, "x")
    assert basis.shape == (30, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0.0)
    assert basis.sum(dim=0).abs().max() < 1e-12


@pytest.mark.parametrize(("rows", "forced"), [(40, 0), (18, 3), (12, 9)])
def test_forced_correlations_are_counted(rows: int, forced: int) -> None:
    x, y = normal(rows, 10), normal(rows, 10, 1)
    correlations = torch.linalg.svdvals(all_directions(x, "x").T @ all_directions(y, "y"))
    found = cca(x, y)
    assert found.details["forced"] == int((correlations > 1 - 1e-9).sum()) == forced
    assert found.observed == pytest.approx(float(correlations.mean()), abs=1e-12)


@pytest.mark.parametrize("rows", [11, 8])
def test_refused_where_all_correlations_are_forced(rows: int) -> None:
    with pytest.raises(
        StatisticError, match=rf"^cca of {rows} rows is 1 whatever the data: with .* use svcca, or more"
    ):
        cca(normal(rows, 10), normal(rows, 4, 1))


@pytest.mark.parametrize("offset", [300.0, 1e8])
def test_an_offset_adds_no_direction(offset: float) -> None:
    """Neither where rows are fewer than columns, nor where they repeat: one correlation too many was 1, or a value above 1."""
    x, y = normal(25, 40).repeat(4, 1), normal(100, 6, 1)
    found, there = cca(x, y), cca(x + offset, y + offset)
    assert there.details == found.details and found.details["directions_x"] == 24
    assert there.observed == pytest.approx(found.observed, abs=1e-6)
    with pytest.raises(StatisticError, match=r"^cca of 60 rows is 1 whatever the data: with 59 and 4 directions"):
        cca(normal(60, 80) + offset, normal(60, 4, 1))


def test_errors() -> None:
    with pytest.raises(StatisticError, match=r"^cca needs at least 3 rows, got 2$"):
        cca(normal(2, 4), normal(2, 4))
    with pytest.raises(StatisticError, match=r"^cca needs rows that vary, but those of y are all the same$"):
        cca(normal(9, 4), torch.ones(9, 4, dtype=torch.float64))


def test_entries_near_the_largest_number_change_nothing() -> None:
    """Whose sums overflow."""
    x, y = (torch.randn(40, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    huge = x * (1.7e308 / float(x.abs().max()))
    assert cca(huge, y).observed == pytest.approx(cca(x, y).observed, abs=1e-12)
