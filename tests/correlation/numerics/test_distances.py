"""Squared distances against direct float64 code."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numba
import numpy as np
import pytest
import torch
from direct_distances import direct, squared_distances
from paired_rows import normal

from fmtool.correlation.numerics import distances as module
from fmtool.correlation.numerics import neighbours
from fmtool.correlation.numerics.distances import TILE, Keep, distances
from fmtool.correlation.numerics.neighbours import SMALL, side, two_nearest_joint
from fmtool.errors import FmtoolWarning


@pytest.mark.parametrize(("rows", "columns"), [(3, 1), (TILE, 7), (50, 300), (TILE * 3 + 1, 513)])
@pytest.mark.parametrize("keep", Keep)
def test_squared_distances_equal_direct_float64_code(rows: int, columns: int, keep: Keep) -> None:
    data = normal(rows, columns)
    squared = squared_distances(data, keep)
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


def test_columns_of_zeros_change_nothing() -> None:
    data = normal(40, 6)
    wide = torch.zeros(40, 50, dtype=torch.float64)
    wide[:, 3::8] = data
    np.testing.assert_array_equal(squared_distances(wide), squared_distances(data))
    assert (squared_distances(torch.zeros(5, 3, dtype=torch.float64))[~np.eye(5, dtype=bool)] == 0).all()


@pytest.mark.parametrize("keep", Keep)
def test_some_rows_have_the_distances_that_they_had(keep: Keep) -> None:
    x, y = normal(90, 4), normal(90, 3, 1)
    rows = torch.tensor([*range(3, 60, 2), 77, 89])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(5))
    part = neighbours._pair(side(x, keep), side(y, keep)).subset(rows)
    anew = neighbours._pair(side(x[rows], keep), side(y[rows], keep))
    for one, other in ((part.x, anew.x), (part.y, anew.y), (part.joint(order), anew.joint(order))):
        np.testing.assert_array_max_ulp(one, other, maxulp=1)  # summed in tiles of their own
    passed = neighbours._on_gpu(x, y, torch.device("cpu")).subset(rows)
    np.testing.assert_array_max_ulp(passed.joint(order), anew.joint(order), maxulp=2)


@pytest.mark.slow
@pytest.mark.parametrize("keep", Keep)
def test_results_do_not_depend_on_the_number_of_threads(keep: Keep, set_threads: Callable[[int], None]) -> None:
    data, permutation = normal(SMALL, 40), torch.randperm(SMALL, generator=torch.Generator().manual_seed(1))
    results = []
    for threads in (1, 2):
        set_threads(threads)
        assert numba.get_num_threads() == threads
        one = side(data, keep)
        arrays = (one.distances.block(0, TILE * 4), one.nearest, one.at, two_nearest_joint(one, one, permutation))
        results.append([array.tobytes() for array in arrays])
    assert results[0] == results[1]


def test_the_time_is_said_before_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_TILES", 10)
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    data = normal(TILE * 9, 3)  # 45 pairs of tiles, of which 10 take 30 s
    with pytest.warns(FmtoolWarning, match=r"^the distances of 144 rows take about 2 minutes$"):
        found = distances(data, Keep.MATRIX).matrix
    np.testing.assert_array_equal(found, direct(data))
