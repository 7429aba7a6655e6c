"""Products of sparse rows against dense ones, and columns that repeat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmtool.correlation.numerics import sparse_products
from fmtool.correlation.numerics.sparse_products import distinct_columns, multiplications, shuffled_product


def sparse(rows: int, columns: int, share: float, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, dtype=torch.float64, generator=draw)
    return values * (torch.rand(rows, columns, generator=draw) < share)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("small", [0, 10**9])
def test_equals_the_dense_product_of_shuffled_rows(share: float, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_products, "SMALL", small)
    left, right = sparse(80, 12, share, 0), sparse(80, 7, 0.2, 1)
    left[3], right[-1] = 0.0, 0.0  # rows without entries, the last one among them
    product = shuffled_product(left, right)
    for seed in range(3):
        order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(product(order), left.T @ right[order], atol=1e-12, rtol=0.0)


def test_multiplications_are_those_of_non_zero_entries() -> None:
    left = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    right = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    # 2 x 1 + 1 x 2 as they are, 2 x 2 + 1 x 1 swapped
    assert multiplications(left, right) == 4.5


def test_distinct_columns() -> None:
    a, b, zero = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), torch.zeros(2)
    columns, counts = distinct_columns(torch.stack([zero, b, a, b, zero, b], dim=1).double())
    assert columns.T.tolist() == [b.tolist(), a.tolist()]
    assert counts.tolist() == [3.0, 1.0]
    columns, counts = distinct_columns(torch.zeros(4, 3, dtype=torch.float64))
    assert columns.shape == (4, 0) and counts.shape == (0,)
