"""The sum over pairs that CKA and distance correlation rest on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_rows import normal, order, related, rotated
from torch import Tensor

from fmtool.correlation.numerics import permuted_matrices
from fmtool.correlation.statistics import cka, dcor
from fmtool.correlation.statistics.base import Options, Prepared

Prepare = Callable[[Tensor, Tensor, Options], Prepared]
CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [1, 2, 7, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_permuted_product_on_both_kinds_of_device(rows: int, dtype: torch.dtype) -> None:
    one, other = ((a @ a.T).to(dtype) for a in (normal(rows, 3), normal(rows, 3, 1)))
    permutation = order(rows)
    expected = float((one.double() * other.double()[permutation][:, permutation]).sum())
    assert permuted_matrices.permuted_product(one, other, CPU)(permutation) == pytest.approx(expected, rel=1e-12)
    assert permuted_matrices._on_gpu(one, other)(permutation) == pytest.approx(expected, rel=1e-5)


def test_double_centred_rows_and_columns_have_mean_zero() -> None:
    matrix = normal(1500, 1500)
    matrix = matrix + matrix.T
    means = matrix.mean(dim=0)
    expected = matrix - means - means[:, None] + means.mean()
    torch.testing.assert_close(permuted_matrices.double_centred(matrix.clone()), expected, atol=1e-12, rtol=0.0)


def observed(prepare: Prepare, x: Tensor, y: Tensor) -> float:
    return prepare(x, y, Options()).observed


@pytest.mark.parametrize("prepare", [cka.prepare, dcor.prepare])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-30, 0.1, 7.0, 1e20]))
def test_rotation_scale_and_shift_change_nothing(prepare: Prepare, seed: int, scale: float) -> None:
    x, y = related(40, 6, 5, seed)
    expected = observed(prepare, x, y)
    assert observed(prepare, x, rotated(y, scale, seed + 7)) == pytest.approx(expected, abs=1e-6)
    assert observed(prepare, x, scale * (x + 1.0)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("prepare", [cka.prepare, dcor.prepare])
def test_many_rows_are_compared_in_float32(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(30, 4, 3)
    expected = observed(prepare, x, y)
    monkeypatch.setattr(permuted_matrices, "LARGE", 30)  # from here on, whatever memory is free
    assert permuted_matrices.precision(30) == torch.float32
    assert observed(prepare, x, y) == pytest.approx(expected, abs=1e-6)
