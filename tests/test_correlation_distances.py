"""Distances and neighbours against direct float64 code."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fmtool.correlation.distances import SMALL, TILE, squared_distances, two_nearest, two_nearest_joint


def direct(data: Tensor) -> npt.NDArray[np.float32]:
    """All squared distances from float64 differences, rounded once; infinite on the diagonal."""
    squared = ((data[:, None] - data[None]) ** 2).sum(dim=2).float()
    return squared.fill_diagonal_(torch.inf).numpy()


def smallest(squared: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.sort(squared, axis=1)[:, :2]


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(3, 1), (TILE, 7), (50, 300), (TILE * 3 + 1, 513)])
def test_squared_distances_equal_direct_float64_code(rows: int, columns: int) -> None:
    data = normal(rows, columns)
    squared = squared_distances(data)
    # Sums in another order may round to the neighbouring float32, no further.
    np.testing.assert_array_max_ulp(squared, direct(data), maxulp=1)
    assert (squared == squared.T).all()


def test_near_duplicates_at_an_offset_keep_all_their_digits() -> None:
    data = normal(60, 40) + 1e4
    data[1] = data[0]
    data[2] = data[0]
    data[2, 3] += 1e-6  # squared 1e-12, on a squared norm of 4e9: an expanded square has nothing left of it
    squared = squared_distances(data)
    assert squared[0, 1] == 0.0
    np.testing.assert_array_max_ulp(squared, direct(data), maxulp=1)
    assert squared[0, 2] == pytest.approx(1e-12, rel=1e-4)


def test_one_column_with_an_offset() -> None:
    data = normal(500, 1) + 1e4
    np.testing.assert_array_max_ulp(squared_distances(data), direct(data), maxulp=1)


def test_two_nearest_leave_out_the_point_itself_and_keep_duplicates() -> None:
    data = normal(40, 3)
    data[7] = data[9]
    squared = squared_distances(data)
    nearest = two_nearest(squared)
    np.testing.assert_array_equal(nearest, smallest(squared))
    assert nearest[7, 0] == nearest[9, 0] == 0.0
    assert (nearest[:, 1] > 0).all()


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(3, 70), seed=st.integers(0, 10_000), discrete=st.booleans())
def test_joint_neighbours_are_those_of_the_concatenation(rows: int, seed: int, discrete: bool) -> None:
    x, y = normal(rows, 2, seed), normal(rows, 3, seed + 1)
    if discrete:  # many equal distances, and duplicates
        x, y = x.round(), y.round()
    permutation = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    nearest = two_nearest_joint(squared_distances(x), squared_distances(y), permutation)
    # Both sides and the sum are rounded to float32: three roundings, 1.8e-7, against the concatenation's one.
    expected = smallest(direct(torch.cat([x, y[permutation]], dim=1)))
    np.testing.assert_allclose(nearest, expected, rtol=3e-7)
    np.testing.assert_array_equal(nearest, smallest(direct(x) + direct(y)[permutation][:, permutation]))


def test_concatenation_with_itself_doubles_squared_distances_exactly() -> None:
    squared = squared_distances(normal(50, 4))
    np.testing.assert_array_equal(two_nearest_joint(squared, squared, torch.arange(50)), 2 * two_nearest(squared))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    data, permutation = normal(SMALL, 40), torch.randperm(SMALL, generator=torch.Generator().manual_seed(1))
    before = numba.get_num_threads()
    results = []
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            squared = squared_distances(data)
            results.append((squared.tobytes(), two_nearest_joint(squared, squared, permutation).tobytes()))
    finally:
        numba.set_num_threads(before)
    assert len(set(results)) == 1
