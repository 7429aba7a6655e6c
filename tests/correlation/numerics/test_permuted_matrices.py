"""The sum over pairs that CKA and distance correlation rest on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmtool.correlation.numerics import permuted_matrices

CPU = torch.device("cpu")


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def order(rows: int, seed: int = 0) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


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
