"""Cosine similarity by hand and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from fmtool.correlation.engine import correlate
from fmtool.correlation.statistics.base import Options
from fmtool.correlation.statistics.cosine import BLOCK, prepare
from fmtool.errors import StatisticError

DOUBLE = torch.float64


def test_by_hand_with_all_zero_rows() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [3.0, 4.0]], dtype=DOUBLE)
    y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0], [4.0, 3.0]], dtype=DOUBLE)
    found = prepare(x, y, Options())
    assert found.observed == pytest.approx((1 + 24 / 25) / 2)  # pairs 0 and 3
    assert found.details == {"std": pytest.approx(0.02)}
    assert found.dropped == {"all_zero": 2}
    # Shuffled, row 0 meets (1, 0), row 1 is zero, row 2 meets (2, 0), row 3 meets zero.
    assert found.shuffled(torch.tensor([1, 3, 0, 2])) == pytest.approx((1 + 0.5**0.5) / 2)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 40), columns=st.integers(1, 9), seed=st.integers(0, 1000))
def test_equals_torch_pair_by_pair(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(rows, columns, dtype=DOUBLE, generator=generator) for _ in range(2))
    permutation = torch.randperm(rows, generator=generator)
    found = prepare(x, y, Options())
    pairs = cosine_similarity(x, y)
    # Each cosine is rounded to float32.
    assert found.observed == pytest.approx(float(pairs.mean()), abs=1e-7)
    assert found.details["std"] == pytest.approx(float(pairs.std(correction=0)), abs=1e-7)
    expected = float(cosine_similarity(x, y[permutation]).mean())
    assert found.shuffled(permutation) == pytest.approx(expected, abs=1e-7)


def test_samples_are_the_pairs_and_a_histogram_of_all_other_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(BLOCK + 9, 2, dtype=DOUBLE, generator=generator) for _ in range(2))
    x[3], y[5] = 0.0, 0.0
    y[0] = 2 * x[0]
    y[1] = 3 * x[0]  # cosine 1 with a row that is not its own
    samples = prepare(x, y, Options()).samples
    cosines = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T
    used = torch.ones(len(x), len(x), dtype=torch.bool).fill_diagonal_(False)
    used[3], used[:, 5] = False, False
    expected, _ = np.histogram(cosines[used].float().double().clamp(-1, 1), bins=100, range=(-1, 1))
    found = samples["all_pairs_histogram"]
    assert found.dtype == torch.int64
    # the two round an entry that lies at a bin's edge differently
    assert found.sum() == used.sum() and np.abs(found.numpy() - expected).sum() <= 4
    assert samples["pairs"].dtype == DOUBLE and len(samples["pairs"]) == len(x) - 2
    assert samples["pairs"][0] == pytest.approx(1.0, abs=1e-7)


def test_more_rows_than_a_block() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(BLOCK + 5, 3, dtype=DOUBLE, generator=generator) for _ in range(2))
    found = prepare(x, y, Options()).observed
    assert found == pytest.approx(float(cosine_similarity(x, y).mean()), abs=1e-7)


def test_a_shuffle_may_leave_out_other_pairs() -> None:
    x, y = torch.ones(20, 2, dtype=DOUBLE), torch.ones(20, 2, dtype=DOUBLE)
    x[:5] = 0.0
    y[:5] = 0.0
    (found,) = correlate(x, y, statistics=["cosine"], permutations=50)
    assert found.dropped == {"all_zero": 5}
    assert found.null.values.tolist() == pytest.approx([1.0] * 50)


def test_errors() -> None:
    with pytest.raises(StatisticError, match=r"^cosine needs at least 2 rows, got 1$"):
        prepare(torch.ones(1, 3, dtype=DOUBLE), torch.ones(1, 3, dtype=DOUBLE), Options())
    with pytest.raises(StatisticError, match=r"^cosine needs as many columns in y as in x, 3, got 4$"):
        prepare(torch.ones(5, 3, dtype=DOUBLE), torch.ones(5, 4, dtype=DOUBLE), Options())
    x, y = torch.eye(4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE)
    x[:2] = 0.0
    y[2:] = 0.0
    with pytest.raises(StatisticError, match=r"fewer all-zero rows .*, got 2 in x and 2 in y of 4$"):
        prepare(x, y, Options())
