"""One statistic with its nulls: which shuffles are drawn, and what is recorded of a statistic that is finished or begun."""

from __future__ import annotations

import math

import pytest
import torch
from dying import Dying
from torch import Tensor

from fmtool.correlation.engine import correlate
from fmtool.correlation.evaluate import (
    FREELY,
    WITHIN_CLASSES,
    Pairs,
    Shuffles,
    Statistic,
    alone_in_class,
    evaluate,
    prepare,
)
from fmtool.correlation.nulls import class_permutation, free_permutation
from fmtool.correlation.statistics import cosine
from fmtool.correlation.statistics.base import Options, Prepared
from fmtool.errors import StatisticError

N = 12
LABELS = torch.arange(N) % 3


def first(permutation: Tensor) -> float:
    """A statistic that tells its permutations apart: where row 0 went."""
    return float(permutation[0])


def prepared() -> Prepared:
    return Prepared(-1.0, {"size": 2.0}, {"ties": 3}, first, {"pairs": torch.arange(3.0)})


def evaluated(labels: Tensor | None = LABELS, journal: Dying | None = None, seed: int = 5) -> Statistic:
    return evaluate("toy", "part", prepared, labels, N, Shuffles(6, seed, False, journal or Dying(())))


def test_pairs_keep_rows_and_labels_together() -> None:
    pairs = Pairs(torch.rand(5, 2), torch.rand(5, 3), torch.arange(5))
    some = pairs.of(torch.tensor([4, 1]))
    assert len(some) == 2 and some.labels is not None and some.labels.tolist() == [4, 1]
    assert torch.equal(some.x, pairs.x[[4, 1]]) and torch.equal(some.y, pairs.y[[4, 1]])
    assert Pairs(pairs.x, pairs.y, None).of(torch.tensor([0])).labels is None


def test_each_null_has_its_own_shuffles() -> None:
    found = evaluated()
    assert found.null.values.tolist() == [float(free_permutation(N, 5, k)[0]) for k in range(6)]
    assert found.within_class is not None
    assert found.within_class.values.tolist() == [float(class_permutation(LABELS, 5, k)[0]) for k in range(6)]
    assert all(value % 3 == 0 for value in found.within_class.values.tolist())
    assert (found.name, found.n, found.observed) == ("toy", N, -1.0)
    assert found.details == {"size": 2.0} and found.dropped == {"ties": 3}
    assert found.samples["pairs"].tolist() == [0, 1, 2]
    assert evaluated(None).within_class is None
    assert evaluated(seed=6).null.values.tolist() != found.null.values.tolist()


def test_a_finished_part_is_not_prepared_again() -> None:
    journal = Dying(())
    whole = evaluated(journal=journal)
    recorded = journal.part("part")
    assert recorded is not None and set(recorded) == {"numbers", FREELY, WITHIN_CLASSES, "sample pairs"}

    def never() -> Prepared:
        raise AssertionError

    again = evaluate("toy", "part", never, LABELS, N, Shuffles(6, 5, False, journal))
    assert again.null.values.equal(whole.null.values) and again.observed == whole.observed
    assert again.samples["pairs"].equal(whole.samples["pairs"])


@pytest.mark.parametrize("where", ["observed", "shuffle"])
def test_values_that_are_not_finite_are_no_result(where: str) -> None:
    """NaN is not >= anything, so p would be the smallest possible."""
    observed, value = (math.nan, 1.0) if where == "observed" else (1.0, math.nan)
    toy = Prepared(observed, {}, {}, lambda permutation: value)
    with pytest.raises(StatisticError, match="toy: expected finite values"):
        evaluate("toy", "part", lambda: toy, None, N, Shuffles(3, 0, False, Dying(())))


@pytest.mark.parametrize("name", ["cka", "cosine"])
@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1020])
def test_extreme_scales_change_nothing(name: str, exponent: int) -> None:
    x, y = torch.rand(2, 30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    scaled = Pairs(x * 2.0**exponent, y, None)  # a power of two: the same bits
    assert prepare(name, scaled, Options()).observed == prepare(name, Pairs(x, y, None), Options()).observed


def test_a_statistic_is_found_by_its_name() -> None:
    x, y = torch.rand(6, 4).double(), torch.rand(6, 4).double()
    assert prepare("cosine", Pairs(x, y, None), Options()).observed == cosine.prepare(x, y, Options()).observed
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        prepare("nothing", Pairs(x, y, None), Options())


def test_without_two_pairs_of_a_class_there_is_no_null_within_classes() -> None:
    """Each shuffle would be the observed order: p would say 1, or, by the authors' count, its floor."""
    x = torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alone, pair = torch.arange(12), torch.arange(12).clamp(max=10)
    for labels, expected in ((alone, False), (pair, True)):
        (found,) = correlate(x, x.flip(1), labels=labels, statistics=["cosine"], permutations=5)
        assert (found.within_class is not None) is expected
    assert alone_in_class(alone) == 12 and alone_in_class(pair) == 10
