"""TwoNN against direct code, scikit-dimension and manifolds of known dimension."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmtool.correlation.numerics.distances import Keep
from fmtool.correlation.numerics.neighbours import side
from fmtool.correlation.numerics.two_nn import two_nn
from fmtool.errors import StatisticError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever a third party's import may deprecate
    import skdim


def neighbours(data: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return side(torch.from_numpy(data), Keep.MATRIX).two_nearest


def direct(nearest: npt.NDArray[np.float32]) -> float:
    """The authors' recipe, one step a line."""
    ratios = sorted(math.sqrt(float(b)) / math.sqrt(float(a)) for a, b in nearest if 0 < a < b)
    total = len(ratios)
    points = [(math.log(mu), -math.log(1 - (i + 1) / total)) for i, mu in enumerate(ratios[:-1])]
    points = points[: math.floor(0.9 * total)]
    return sum(u * v for u, v in points) / sum(u * u for u, _ in points)


@pytest.mark.parametrize("rows", [10, 11, 57, 400])
def test_two_nn_equals_direct_code_and_scikit_dimension(rows: int) -> None:
    nearest = neighbours(np.random.default_rng(rows).standard_normal((rows, 5)))
    found = two_nn(nearest, "x")
    assert (found.duplicates, found.ties) == (0, 0)
    reference = skdim.id.TwoNN(discard_fraction=0.1, dist=True).fit(np.sqrt(nearest.astype(np.float64)))
    assert found.value == pytest.approx(reference.dimension_, rel=1e-12)
    assert found.value == pytest.approx(direct(nearest), rel=1e-12)


def test_two_nn_equals_scikit_dimension_on_the_points_themselves() -> None:
    data = np.random.default_rng(3).standard_normal((600, 30))  # above 25 columns skdim takes exact distances
    reference = skdim.id.TwoNN(discard_fraction=0.1).fit(data).dimension_
    # skdim expands its squares in float64, ours are stored as float32: 6e-8 each, less in a fit of 540 points.
    assert two_nn(neighbours(data), "x").value == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_finds_the_dimension_of_a_cube_in_more_columns(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    data = rng.random((3000, dimension)) @ rng.standard_normal((dimension, 9))
    # The estimate scatters by about 1 / sqrt(2700), 2 %, and edges bias it downwards, by a few per cent at 5.
    assert two_nn(neighbours(data), "x").value == pytest.approx(dimension, rel=0.1)


def test_duplicates_and_ties_are_left_out_and_counted() -> None:
    nearest = neighbours(np.random.default_rng(0).standard_normal((100, 3)))
    spoilt = np.concatenate([[[0.0, 1.0], [2.0, 2.0], [0.0, 0.0], [3.0, 3.0], [0.5, 0.5]], nearest]).astype(np.float32)
    found = two_nn(spoilt, "x")
    assert (found.duplicates, found.ties) == (2, 3)
    assert found.value == two_nn(nearest, "x").value


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_two_nn_does_not_depend_on_scale_or_order(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    nearest = np.sort(rng.random((40, 2)) + 0.1, axis=1).astype(np.float32)
    value = two_nn(nearest, "x").value
    scaled = (nearest.astype(np.float64) * scale).astype(np.float32)
    assert two_nn(rng.permutation(nearest), "x").value == value
    assert two_nn(scaled, "x").value == pytest.approx(value, rel=1e-4)  # rounding moves the ratios nearest to 1


def test_too_few_usable_points() -> None:
    nearest = np.array([[0.0, 1.0]] * 3 + [[1.0, 1.0]] * 2 + [[1.0, 2.0]] * 9, dtype=np.float32)
    with pytest.raises(StatisticError, match=r"at least 10 points .*; y has 9 of 14 \(3 duplicates, 2 ties\)"):
        two_nn(nearest, "y")
