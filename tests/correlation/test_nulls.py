"""Shuffles and what is read off them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fmtool.correlation.nulls import class_permutation, free_permutation, summarise


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(rows=st.integers(1, 60), seed=st.integers(0, 2**40), number=st.integers(0, 999))
def test_a_free_shuffle_is_a_permutation_fixed_by_seed_and_number(rows: int, seed: int, number: int) -> None:
    drawn = free_permutation(rows, seed, number)
    assert drawn.dtype == torch.int64
    assert drawn.sort().values.equal(torch.arange(rows))
    assert drawn.equal(free_permutation(rows, seed, number))


@given(labels=st.lists(st.integers(-3, 3), min_size=1, max_size=60), seed=st.integers(0, 1000))
def test_a_class_shuffle_stays_within_classes(labels: list[int], seed: int) -> None:
    classes = torch.tensor(labels)
    drawn = class_permutation(classes, seed, 0)
    assert drawn.sort().values.equal(torch.arange(len(labels)))
    assert classes[drawn].equal(classes)


def test_shuffles_differ_and_are_even() -> None:
    classes = torch.tensor([5, 2, 5, 2, 2])
    free = torch.stack([free_permutation(3, 0, k) for k in range(3000)])
    within = torch.stack([class_permutation(classes, 0, k) for k in range(3000)])
    # 500 of each order of three expected; 5 standard deviations are 102.
    for drawn in (free, within[:, [1, 3, 4]]):
        _, counts = np.unique(drawn.numpy(), axis=0, return_counts=True)
        assert len(counts) == 6
        assert np.abs(counts - 500).max() < 102


def test_summary_by_hand() -> None:
    null = summarise(0.5, doubles(0.1, 0.5, 0.9, 0.3), strict=False)
    assert null.mean == pytest.approx(0.45)
    assert null.p == 3 / 5  # 0.5 ties
    assert null.floor == 1 / 5
    assert null.adjusted == pytest.approx(0.05 / 0.55)
    assert null.reason == ""
    assert (null.low, null.high) == pytest.approx((0.1 + 0.075 * 0.2, 0.5 + 0.925 * 0.4))
    assert summarise(0.5, doubles(0.1, 0.5, 0.9, 0.3), strict=True).p == 2 / 5


def test_values_that_differ_by_rounding_are_ties() -> None:
    values = doubles(1.0 - 2e-16, 1.0 + 2e-16, 1.0)
    assert summarise(1.0, values, strict=False).p == 1.0
    assert summarise(1.0, values, strict=True).p == 1 / 4


def test_p_never_falls_below_its_floor() -> None:
    null = summarise(2.0, torch.zeros(99, dtype=torch.float64), strict=False)
    assert null.p == null.floor == 0.01


@pytest.mark.parametrize(("mean", "adjustable"), [(0.949, True), (0.95, False), (0.99, False), (-3.0, True)])
def test_adjusted_needs_a_null_mean_below_095(mean: float, adjustable: bool) -> None:
    null = summarise(1.0, doubles(mean), strict=False)
    assert math.isnan(null.adjusted) is not adjustable
    assert null.reason == ("" if adjustable else f"the null's mean, {mean:.3f}, is not below 0.95")
    if adjustable:
        assert null.adjusted == pytest.approx(1.0)
