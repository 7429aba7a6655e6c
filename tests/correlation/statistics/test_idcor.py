"""IdCor against direct float64 code, scikit-dimension, and cases whose answer is known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from paired_rows import normal
from torch import Tensor

from fmtool.correlation.engine import correlate
from fmtool.correlation.nulls import free_permutation
from fmtool.correlation.statistics.base import Options
from fmtool.correlation.statistics.idcor import prepare, standardise
from fmtool.errors import StatisticError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever a third party's import may deprecate
    import skdim

ROWS = 5000  # of the known answers: three TwoNN estimates that scatter by 1.5 % each
Array = npt.NDArray[np.float64]


def raw(x: Tensor, y: Tensor) -> float:
    """IdCor without scaling rows."""
    return prepare(x, y, Options(row_normalise=False)).observed


def direct_rows(data: Array, row_normalise: bool) -> Array:
    columns: Array = (data - data.mean(axis=0)) / (data.std(axis=0, ddof=1) + 1e-6)
    lengths: Array = np.linalg.norm(columns, axis=1, keepdims=True)
    return columns / lengths if row_normalise else columns


def direct_dimension(data: Array) -> float:
    ratios = []
    for point in data:
        distances = np.sort(np.sqrt(((data - point) ** 2).sum(axis=1)))
        ratios.append(distances[2] / distances[1])  # the nearest is the point itself
    ratios.sort()
    u = np.log(ratios)[: math.floor(0.9 * len(data))]
    v = -np.log(1 - np.arange(1, len(u) + 1) / len(data))
    return float((u * v).sum() / (u * u).sum())


def direct_idcor(x: Array, y: Array, row_normalise: bool) -> tuple[float, float, float, float]:
    x, y = direct_rows(x, row_normalise), direct_rows(y, row_normalise)
    d1, d2, d = direct_dimension(x), direct_dimension(y), direct_dimension(np.concatenate([x, y], axis=1))
    return d1, d2, d, (d1 + d2 - d) / max(d1, d2)


@pytest.mark.parametrize("row_normalise", [True, False])
def test_value_and_p_equal_direct_code(row_normalise: bool) -> None:
    x, y = normal(80, 4), normal(80, 6, 1)
    y[:, :2] += 0.7 * x[:, :2]
    (found,) = correlate(x, y, statistics=["idcor"], permutations=19, seed=5, row_normalise=row_normalise)
    d1, d2, d, value = direct_idcor(x.numpy(), y.numpy(), row_normalise)
    expected = {"dimension_x": d1, "dimension_y": d2, "dimension_joint": d}
    # Squared distances are stored as float32, 6e-8 each; a ratio near 1 magnifies that, the fit averages it.
    assert found.details == pytest.approx(expected, rel=1e-5)
    assert found.observed == pytest.approx(value, abs=1e-5)
    shuffled = [direct_idcor(x.numpy(), y[free_permutation(80, 5, k)].numpy(), row_normalise)[3] for k in range(19)]
    np.testing.assert_allclose(found.null.values.numpy(), shuffled, atol=1e-5)
    assert found.null.p == (1 + sum(s >= value for s in shuffled)) / 20
    assert found.dropped == {}


def test_dimensions_equal_scikit_dimension() -> None:
    x, y = normal(400, 30), normal(400, 40, 1)
    details = prepare(x, y, Options()).details
    rows = [direct_rows(side.numpy(), True) for side in (x, y)]
    for name, data in zip(("x", "y", "joint"), [*rows, np.concatenate(rows, axis=1)], strict=True):
        reference = skdim.id.TwoNN(discard_fraction=0.1).fit(data).dimension_
        assert details[f"dimension_{name}"] == pytest.approx(reference, rel=1e-5)


def test_standardised_rows() -> None:
    data = torch.tensor([[0.1, 3.0, 1.0], [0.1, 1.0, 5.0], [0.1, 2.0, 3.0], [0.1, 2.0, 3.0]], dtype=torch.float64)
    rows = standardise(data, row_normalise=True)
    assert rows[:, 0].equal(torch.zeros(4, dtype=torch.float64))  # constant: no rounding is blown up
    assert rows[2:].equal(torch.zeros(2, 3, dtype=torch.float64))  # at the centre: not NaN
    torch.testing.assert_close(rows[:2].norm(dim=1), torch.ones(2, dtype=torch.float64))
    columns = standardise(data, row_normalise=False)
    torch.testing.assert_close(columns[:, 1].std(), torch.tensor(1.0, dtype=torch.float64), rtol=2e-6, atol=0.0)
    one = standardise(data[:, 1:2], row_normalise=True)  # one column: scaling rows would leave signs
    assert one.flatten().equal(columns[:, 1])


def test_units_of_a_column_are_its_own_affair() -> None:
    """A constant column, in whatever units, or one in other units, changes nothing for the rest."""
    data = normal(50, 3) * torch.tensor([1.0, 0.1, 0.003])
    expected = standardise(data, row_normalise=False)
    for constant in (1.0, 1e6, 1e300):
        more = torch.cat([data, torch.full((50, 1), constant, dtype=torch.float64)], dim=1)
        assert standardise(more, row_normalise=False)[:, :3].equal(expected)
    for units in (1e4, 1e9, 1e300):
        found = standardise(data * torch.tensor([units, 1.0, 1.0], dtype=torch.float64), row_normalise=False)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    tiny = standardise(data * 1e-9, row_normalise=False)
    torch.testing.assert_close(tiny[:, 0], expected[:, 0], rtol=1e-5, atol=0.0)


@pytest.mark.slow
def test_a_set_with_itself_is_exactly_one() -> None:
    # Joint squared distances are twice the single ones, exactly: the ratios, and so the dimensions, are the same.
    x = torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(0)).double()
    prepared = prepare(x, x, Options(row_normalise=False))
    assert prepared.observed == 1.0
    assert prepared.details["dimension_joint"] == prepared.details["dimension_x"] == pytest.approx(2.0, rel=0.06)


def test_a_spiral_is_found_where_pearson_sees_nothing() -> None:
    theta = 6 * math.pi * torch.rand(ROWS, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, y = theta / (6 * math.pi) * theta.cos(), theta / (6 * math.pi) * theta.sin()
    assert abs(torch.corrcoef(torch.cat([x, y], dim=1).T)[0, 1]) < 0.15
    # Three dimensions of 1, each within 1.5 % or so.
    assert raw(x, y) == pytest.approx(1.0, abs=0.07)


def test_independent_normals_are_near_zero() -> None:
    # Dimensions 1, 1 and 2: their scatter, 1.5 % each, adds up to 0.04.
    assert raw(normal(ROWS, 1), normal(ROWS, 1, 1)) == pytest.approx(0.0, abs=0.08)


@pytest.mark.slow
def test_the_more_is_shared_the_higher() -> None:
    x = math.pi * normal(ROWS, 4)
    noise = normal(ROWS, 4, 1)
    first = torch.stack([(x[:, 0] + x[:, 2]).cos(), x[:, 1].sin()], dim=1)
    second = torch.stack([(x[:, 1] * x[:, 3]).sin(), x[:, 2].cos()], dim=1)
    all_four, two = raw(x, torch.cat([first, second], dim=1)), raw(x, torch.cat([first, noise[:, :2]], dim=1))
    assert all_four > two > raw(x, noise)


def test_an_offset_does_not_spoil_one_column() -> None:
    # The authors' float32 cdist gives dimension 1.4 here.
    x, y = normal(2000, 1) + 1e4, normal(2000, 1, 1) + 1e4
    details = prepare(x, y, Options()).details
    assert details["dimension_x"] == pytest.approx(1.0, abs=0.08)
    assert details["dimension_joint"] == pytest.approx(2.0, abs=0.16)


def test_duplicates_are_counted() -> None:
    x, y = normal(100, 3), normal(100, 3, 1)
    x[3] = x[4]
    x[5] = x[4]
    y[3] = y[4]
    found = correlate(x, y, statistics=["idcor"], permutations=9)[0]
    duplicates = {reason: count for reason, count in found.dropped.items() if reason.startswith("duplicates")}
    assert duplicates == {"duplicates_x": 3, "duplicates_y": 2, "duplicates_joint": 2}
    assert found.dropped["ties_x"] == 1  # a point whose two nearest neighbours are duplicates of each other
    assert found.n == 100


def test_ties_are_counted() -> None:
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)).double()
    grid[:30] += 0.1 * normal(30, 2)  # enough points off the grid for an estimate
    dropped = prepare(grid, normal(100, 2), Options(row_normalise=False)).dropped
    assert dropped.keys() == {"ties_x"}
    assert 30 < dropped["ties_x"] <= 70


def test_too_few_rows_and_too_discrete_rows() -> None:
    for rows in (1, 9):
        with pytest.raises(StatisticError, match=rf"^idcor needs at least 10 rows, got {rows}$"):
            prepare(normal(rows, 2), normal(rows, 2), Options())
    binary = (normal(200, 2) > 0).double()
    with pytest.raises(StatisticError, match=r"y has 0 of 200 \(200 duplicates, 0 ties\)"):
        prepare(normal(200, 2), binary, Options())


def test_where_zero_lies_does_not_matter() -> None:
    """The authors' offset outweighed small columns beside their mean, though not those around zero."""
    x, y = 1e-7 * normal(150, 3), normal(150, 3, 1)
    y[:, 0] = 1e7 * x[:, 0]
    here, there = (prepare(side, y, Options(row_normalise=False)).observed for side in (x, 1 + x))
    assert there == pytest.approx(here, abs=1e-4)


@pytest.mark.parametrize("factor", [2.0**-600, 1e-20, 1e-8, 1e8, 1e200])
def test_units_do_not_matter(factor: float) -> None:
    """The offset of the authors is meant for masks, and would outweigh columns in small units."""
    x, y = normal(150, 4), normal(150, 6, 1)
    y[:, :2] += 0.7 * x[:, :2]
    there, here = (prepare(x, side, Options()) for side in (y * factor, y))
    assert there.observed == pytest.approx(here.observed, abs=1e-4) and there.dropped == here.dropped
