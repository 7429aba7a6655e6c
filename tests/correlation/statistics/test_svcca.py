"""SVCCA against scikit-learn's CCA and against the textbook's eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_rows import normal
from sklearn.cross_decomposition import CCA
from torch import Tensor

from fmtool.correlation.statistics import canonical
from fmtool.correlation.statistics.base import Options, Prepared
from fmtool.correlation.statistics.svcca import centring, main_basis, main_directions, prepare
from fmtool.errors import StatisticError


def related(rows: int, d1: int, d2: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets that share two directions, with columns of different size and a mean that is not 0."""
    x, y = normal(rows, d1, seed), normal(rows, d2, seed + 1)
    y[:, 0] += 2 * x[:, 1]
    y[:, 1] += 0.5 * x[:, 0]
    return x * torch.linspace(1, 3, d1) + 0.5, y * torch.linspace(2, 1, d2) - 0.3


def svcca(x: Tensor, y: Tensor) -> Prepared:
    return prepare(x, y, Options())


def centred_basis(directions: Tensor) -> Tensor:
    basis = directions @ centring(directions)
    return basis - basis.mean(dim=0)


def masks(rows: int, columns: int, seed: int) -> Tensor:
    """Sparse, not negative, every column twice: (rows, 2 columns). Some columns are all 0."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, columns, dtype=torch.float64, generator=draw) * torch.linspace(1, 0.01, columns)
    values *= torch.rand(rows, columns, generator=draw) < torch.linspace(0.9, 0.0, columns)
    return torch.cat([values, values.flip(1)], dim=1)


def truncated(data: Tensor) -> Tensor:
    """The projections that the authors' code makes: data @ V[:, :k], sizes and all."""
    _, sizes, directions = np.linalg.svd(data.numpy(), full_matrices=False)
    kept = max(1, int(np.sum(np.cumsum(sizes) / np.sum(sizes) < 0.99)))
    return data @ torch.from_numpy(directions[:kept].T.copy())


def test_equals_scikit_learns_cca_of_the_truncated_data() -> None:
    x, y = related(300, 6, 5)
    left, right = truncated(x).numpy(), truncated(y).numpy()
    smaller = min(left.shape[1], right.shape[1])
    u, v = CCA(n_components=smaller, scale=False, max_iter=20_000, tol=1e-14).fit_transform(left, right)
    expected = np.mean([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(smaller)])
    found = svcca(x, y)
    # scikit-learn iterates and deflates, one component after the other.
    assert found.observed == pytest.approx(expected, abs=1e-6)
    assert found.details == {"directions_x": left.shape[1], "directions_y": right.shape[1], "forced": 0.0}


def test_equals_the_eigenvalues_of_the_textbook() -> None:
    x, y = related(200, 9, 4, seed=3)
    left, right = (truncated(side) - truncated(side).mean(dim=0) for side in (x, y))
    product = torch.linalg.inv(left.T @ left) @ (left.T @ right) @ torch.linalg.inv(right.T @ right) @ (right.T @ left)
    squares = torch.linalg.eigvals(product).real.sort(descending=True).values[: right.shape[1]]
    assert svcca(x, y).observed == pytest.approx(float(squares.clamp(min=0).sqrt().mean()), abs=1e-9)


def test_a_shuffle_equals_a_fresh_run_on_shuffled_rows() -> None:
    x, y = related(50, 6, 5)
    permutation = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert svcca(x, y).shuffled(permutation) == pytest.approx(svcca(x, y[permutation]).observed, abs=1e-12)


@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_masks_whose_columns_repeat(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "IN_STEP", 0 if way == "sparse" else 10**9)
    x, y = masks(600, 30, 0), masks(600, 40, 1)
    y[:, 3] += x[:, 2]
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    found = svcca(x, y)
    for other, value in ((y, found.observed), (y[order], found.shuffled(order))):
        left, right = (torch.linalg.qr(truncated(side) - truncated(side).mean(dim=0)).Q for side in (x, other))
        correlations = torch.linalg.svdvals(left.T @ right)
        assert found.details == {"directions_x": left.shape[1], "directions_y": right.shape[1], "forced": 0.0}
        assert value == pytest.approx(float(correlations.mean()), abs=1e-12)


def test_weights_of_columns_give_the_basis() -> None:
    basis, constant = main_basis(masks(60, 30, 0), "x")
    assert basis.columns is not None and basis.weights is not None and basis.columns.shape == (60, 29)
    expected = (basis.columns - basis.columns.mean(dim=0)) @ basis.weights
    torch.testing.assert_close(basis.basis, expected, atol=1e-12, rtol=0.0)
    assert constant == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_rotation_and_isotropic_scale_change_nothing(seed: int, scale: float) -> None:
    x, y = related(60, 6, 5, seed)
    rotation = torch.linalg.qr(normal(5, 5, seed + 7)).Q
    before, after = svcca(x, y), svcca(x, scale * (y @ rotation))
    assert after.observed == pytest.approx(before.observed, abs=1e-9)
    assert after.details == before.details


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e160, 1e307])
def test_units_do_not_matter(factor: float) -> None:
    """Also of sparse data, whose columns are multiplied: products vanished, or overflowed."""
    for x, y in ((masks(600, 30, 0), masks(600, 40, 1)), related(60, 6, 5)):
        x[:, 0] += y[:, 1]
        largest = max(float(side.abs().max()) for side in (x, y))
        before, after = svcca(x, y), svcca(x / largest * factor, y / largest * factor)
        assert after.observed == pytest.approx(before.observed, abs=1e-9) and after.details == before.details


def test_how_many_directions_are_kept() -> None:
    # Orthogonal columns of sizes 90, 8, 1, 1: shares 0.90, 0.98, 0.99, 1, of which two are strictly below 0.99.
    # With squares it would be one.
    data = torch.zeros(8, 6, dtype=torch.float64)
    data[:4, :4] = torch.diag(torch.tensor([90.0, 8.0, 1.01, 0.99], dtype=torch.float64))
    assert main_directions(data, "x")[0].shape == (8, 2)
    assert main_directions(data[:, :1], "x")[0].shape == (8, 1)  # one direction has all: at least one is kept


@pytest.mark.parametrize("shift", [0.0, 0.1, 5.0])
def test_centred_basis_spans_the_centred_directions(shift: float) -> None:
    directions = torch.linalg.qr(normal(30, 5) + shift).Q
    basis = centred_basis(directions)
    assert basis.shape == (30, 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64), atol=1e-12, rtol=0.0)
    centred = torch.linalg.qr(directions - directions.mean(dim=0)).Q
    torch.testing.assert_close(basis @ basis.T, centred @ centred.T, atol=1e-12, rtol=0.0)


def test_centred_basis_drops_a_constant_direction() -> None:
    data = normal(30, 5)
    data[:, 3] = 1.0
    basis = centred_basis(torch.linalg.qr(data).Q)
    assert basis.shape == (30, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0.0)
    assert basis.mean(dim=0).abs().max() < 1e-15


def test_a_constant_direction_is_counted() -> None:
    x = normal(30, 5)
    x -= x.mean(dim=0)
    x[:, 0] = 10.0  # orthogonal to the others: a main direction of its own
    found = svcca(x, x)
    assert found.dropped == {"constant_x": 1, "constant_y": 1}
    assert found.observed == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("rows", "forced"), [(40, 0), (19, 0), (18, 1), (12, 7), (9, 7), (4, 3)])
def test_forced_correlations_are_counted(rows: int, forced: int) -> None:
    # Ten columns leave nine directions a side, fewer where there are fewer rows.
    x, y = normal(rows, 10), normal(rows, 10, 1)
    correlations = torch.linalg.svdvals(
        centred_basis(main_directions(x, "x")[0]).T @ centred_basis(main_directions(y, "y")[0])
    )
    found = svcca(x, y)
    assert found.details["forced"] == int((correlations > 1 - 1e-9).sum()) == forced
    # Also where the complements are compared in place of the directions.
    assert found.observed == pytest.approx(float(correlations.mean()), abs=1e-12)


def test_too_few_rows_zeros_and_constant_rows() -> None:
    with pytest.raises(StatisticError, match=r"^svcca needs at least 3 rows, got 2$"):
        svcca(normal(2, 4), normal(2, 4))
    with pytest.raises(StatisticError, match=r"^svcca needs data that are not all zero, but y is$"):
        svcca(normal(9, 4), torch.zeros(9, 4, dtype=torch.float64))
    with pytest.raises(StatisticError, match=r"^svcca needs rows that vary, but the main direction of x is the same"):
        svcca(torch.ones(9, 4, dtype=torch.float64), normal(9, 4))
