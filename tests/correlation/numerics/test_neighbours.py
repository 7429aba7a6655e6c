"""Nearest neighbours of two sides and of their concatenation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from direct_distances import direct, squared_distances
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_rows import normal

from fmtool.correlation.numerics import neighbours
from fmtool.correlation.numerics.distances import Keep
from fmtool.correlation.numerics.neighbours import side, two_nearest_joint
from fmtool.errors import FmtoolWarning


def smallest(squared: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.sort(squared, axis=1)[:, :2]


def test_two_nearest_leave_out_the_point_itself_and_keep_duplicates() -> None:
    data = normal(40, 3)
    data[7] = data[9]
    nearest = side(data, Keep.MATRIX).two_nearest
    np.testing.assert_array_equal(nearest, smallest(squared_distances(data)))
    assert nearest[7, 0] == nearest[9, 0] == 0.0
    assert (nearest[:, 1] > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(3, 70), seed=st.integers(0, 10_000), discrete=st.booleans(), depth=st.integers(2, 80),
    keep=st.sampled_from(Keep), columns=st.integers(1, 3),
)  # fmt: skip
def test_joint_neighbours_are_those_of_the_concatenation(
    rows: int, seed: int, discrete: bool, depth: int, keep: Keep, columns: int
) -> None:
    """Whatever the lists' depth: short ones run out, and the whole row is looked at."""
    x, y = normal(rows, columns, seed), normal(rows, 3, seed + 1)
    if discrete:  # many equal distances, and duplicates
        x, y = x.round(), y.round()
    permutation = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    nearest = two_nearest_joint(side(x, keep, depth), side(y, keep, depth), permutation)
    # Both sides and the sum are rounded to float32: three roundings, 1.8e-7, against the concatenation's one.
    expected = smallest(direct(torch.cat([x, y[permutation]], dim=1)))
    np.testing.assert_allclose(nearest, expected, rtol=3e-7)
    matrix = squared_distances(x) + squared_distances(y)[permutation][:, permutation]
    np.testing.assert_array_max_ulp(nearest, smallest(matrix), maxulp=2 if keep is Keep.NOTHING else 0)


def test_joint_neighbours_of_clusters_and_of_a_constant_side() -> None:
    """Lists that say little: every row of x is the same, or neighbours on one side are far on the other."""
    clusters = torch.arange(600) % 30
    x = 100.0 * clusters[:, None] + normal(600, 2)
    y = 100.0 * (clusters[:, None] * 7 % 30) + normal(600, 2, 1)
    for left, right in ((x, y), (torch.zeros(600, 1, dtype=torch.float64), y)):
        permutation = torch.randperm(600, generator=torch.Generator().manual_seed(2))
        found = two_nearest_joint(side(left, Keep.MATRIX), side(right, Keep.MATRIX), permutation)
        matrix = squared_distances(left) + squared_distances(right)[permutation][:, permutation]
        np.testing.assert_array_equal(found, smallest(matrix))


def test_concatenation_with_itself_doubles_squared_distances_exactly() -> None:
    one = side(normal(50, 4), Keep.MATRIX)
    np.testing.assert_array_equal(two_nearest_joint(one, one, torch.arange(50)), 2 * one.two_nearest)


def test_distances_that_do_not_fit_in_memory_are_computed_again_and_the_time_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y, order = normal(90, 4), normal(90, 3, 1), torch.randperm(90, generator=torch.Generator().manual_seed(3))
    stored = neighbours.prepare(x, y, torch.device("cpu"))
    monkeypatch.setattr(neighbours, "free_memory", lambda: 6 * 90**2)
    half = neighbours.prepare(x, y, torch.device("cpu"))
    np.testing.assert_array_equal(stored.joint(order), half.joint(order))
    monkeypatch.setattr(neighbours, "free_memory", lambda: 4 * 90**2)
    with pytest.warns(FmtoolWarning, match=r"distances of 90 rows, .* are computed again for each permutation$"):
        again = neighbours.prepare(x, y, torch.device("cpu"))
    np.testing.assert_array_max_ulp(stored.joint(order), again.joint(order), maxulp=2)
    assert neighbours.free_memory() > 0


def test_the_pass_for_gpus_agrees_with_the_lists() -> None:
    """Run on the CPU here: the same torch operations."""
    x, y, order = normal(120, 5), normal(120, 3, 1), torch.randperm(120, generator=torch.Generator().manual_seed(4))
    x[5] = x[9]
    listed, passed = neighbours.prepare(x, y, torch.device("cpu")), neighbours._on_gpu(x, y, torch.device("cpu"))
    for one, other in ((listed.x, passed.x), (listed.y, passed.y), (listed.joint(order), passed.joint(order))):
        np.testing.assert_array_max_ulp(one, other, maxulp=2)
