"""IdCor by scikit-dimension's estimators."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from paired_rows import normal
from torch import Tensor

from fmtool.correlation.engine import correlate
from fmtool.correlation.registry import DIMENSIONS
from fmtool.correlation.statistics.base import Options
from fmtool.correlation.statistics.idcor import standardise
from fmtool.correlation.statistics.idcor_skdim import MIN_ROWS, estimate, prepare, principal_axes
from fmtool.errors import StatisticError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever a third party's import may deprecate
    import skdim

OTHERS = [name for name in DIMENSIONS if name != "twonn"]
FAST = [name for name in OTHERS if name != "ess"]


def sparse(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows like masks: most entries 0, more columns than rows."""
    return (normal(rows, columns, seed) - 1.5).clamp(0, 1)


def direct_mle(data: npt.NDArray[np.float64]) -> float:
    """Levina and Bickel (2004) of 20 neighbours, pointwise inverses averaged, without scikit-dimension."""
    inverses = []
    for point in data:
        near = np.sort(np.sqrt(((data - point) ** 2).sum(axis=1)))[1:21]
        inverses.append(np.log(near[-1] / near).sum() / 19)
    return float(1 / np.mean(inverses))


def test_mle_equals_direct_code_and_every_shuffle_is_estimated_anew() -> None:
    x, y = normal(80, 4), normal(80, 90, 1)
    y[:, :2] += 2 * x[:, :2]
    (found,) = correlate(x, y, statistics=["idcor"], dimension="mle", permutations=3, seed=5)
    rows = [standardise(side, True).numpy() for side in (x, y)]
    d1, d2, d = (direct_mle(data) for data in (*rows, np.concatenate(rows, axis=1)))
    expected = {"dimension_x": d1, "dimension_y": d2, "dimension_joint": d}
    # scikit-dimension may expand its squares; the axes are turned
    assert found.details == pytest.approx(expected, rel=1e-6)
    assert found.observed == pytest.approx((d1 + d2 - d) / max(d1, d2), abs=1e-6)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    joint = direct_mle(np.concatenate([rows[0], rows[1][order]], axis=1))
    shuffled = prepare(*map(torch.from_numpy, rows), Options(dimension="mle")).shuffled(order)
    assert shuffled == pytest.approx((d1 + d2 - joint) / max(d1, d2), abs=1e-6)


@pytest.mark.parametrize("name", FAST)
def test_estimators_run_on_sparse_rows_and_warn_of_nothing(name: str) -> None:
    x, y = sparse(60, 300), sparse(60, 300, 1)
    (found,) = correlate(x, y, statistics=["idcor"], dimension=name, permutations=2)
    assert found.details["dimension_x"] > 1
    (same,) = correlate(x, y, statistics=["idcor"], dimension=name, permutations=2)
    assert same.observed == found.observed and same.null.values.equal(found.null.values)


@pytest.mark.parametrize("name", OTHERS)
def test_every_name_is_an_estimator_that_finds_a_plane(name: str) -> None:
    rows = 50 if name == "ess" else 150  # the former takes long
    plane = np.random.default_rng(0).random((rows, 2)) @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])
    assert hasattr(skdim.id, DIMENSIONS[name][0])
    # Edges bias them downwards; the one by graph lengths, which gives a whole number, has 1.
    assert estimate(plane, name, "x") == pytest.approx(2, abs=1.0 if name == "knn" else 0.6)


def test_principal_axes_keep_distances_in_fewer_columns() -> None:
    data = sparse(40, 300)
    turned = principal_axes(data)
    assert turned.shape == (40, 39)
    np.testing.assert_allclose(torch.pdist(torch.from_numpy(turned.copy())), torch.pdist(data), rtol=1e-10)


@pytest.mark.parametrize("name", FAST)
def test_equal_rows_are_left_out_but_one_and_counted(name: str) -> None:
    x, y = normal(40, 5), normal(40, 3, 1)
    twice = torch.cat([x, x[:4], x[:1]]), torch.cat([y, y[:3], normal(2, 3, 2)])
    found = prepare(*twice, Options(dimension=name))
    assert found.dropped == {"duplicates_x": 5, "duplicates_y": 3, "duplicates_joint": 3}
    assert found.details["dimension_x"] == prepare(x, y, Options(dimension=name)).details["dimension_x"]


@pytest.mark.slow
def test_too_few_rows_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(MIN_ROWS, 3)
    assert prepare(x, x, Options(dimension="mle")).observed == pytest.approx(1.0)
    with pytest.raises(StatisticError, match=r"^idcor by mle needs at least 22 rows, got 21$"):
        prepare(x[1:], x[1:], Options(dimension="mle"))
    x[0] = x[1]
    with pytest.raises(StatisticError, match=r"^idcor by mle needs at least 22 different rows, x has 21$"):
        prepare(x, normal(MIN_ROWS, 3), Options(dimension="mle"))
    monkeypatch.setitem(DIMENSIONS, "fishers", ("FisherS", ""))  # finds no dimension in many columns
    with pytest.raises(
        StatisticError, match=r"^--dimension fishers gives nan as the dimension of x, expected a number"
    ):
        estimate(principal_axes(sparse(30, 200)), "fishers", "x")


def test_one_column() -> None:
    assert prepare(normal(60, 1), normal(60, 1, 1), Options(dimension="mle")).details["dimension_x"] < 1.5
