"""Statistics of subsets of classes and of subsamples."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fmtool.correlation.curves import subsample, subsets_of_classes
from fmtool.correlation.engine import correlate
from fmtool.correlation.evaluate import Point, Statistic
from fmtool.correlation.numerics import neighbours
from fmtool.correlation.registry import STATISTICS
from fmtool.correlation.statistics.base import Options
from fmtool.correlation.statistics.idcor import _by_two_nn, prepare, standardise

LABELS = torch.tensor([7, 7, 3, 5] * 15)  # 30, 15 and 15 rows


def pairs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 4, dtype=torch.float64, generator=generator)
    return x, x + torch.randn(60, 4, dtype=torch.float64, generator=generator)


def same(one: Statistic | None, other: Statistic) -> bool:
    """Value, both nulls and what was left out."""
    assert one is not None and one.within_class is not None and other.within_class is not None
    return (
        one.observed == other.observed
        and one.null.values.equal(other.null.values)
        and one.within_class.values.equal(other.within_class.values)
        and (one.details, one.dropped, one.n) == (other.details, other.dropped, other.n)
    )


@given(count=st.integers(1, 12), draws=st.integers(1, 12), seed=st.integers(0, 1000))
def test_subsets_differ_and_all_are_taken_where_there_are_few(count: int, draws: int, seed: int) -> None:
    found = subsets_of_classes(count, draws, seed)
    assert found == subsets_of_classes(count, draws, seed)
    assert len(set(found)) == len(found)
    for k in range(1, count + 1):
        every = set(itertools.combinations(range(count), k))
        drawn = {one for one in found if len(one) == k}
        assert drawn <= every and len(drawn) == min(draws, len(every))
    assert found[-1] == tuple(range(count))


def test_subsamples_differ_and_stay_when_others_are_asked_for() -> None:
    drawn = [subsample(100, 40, 0, k) for k in range(5)]
    assert len({tuple(rows.tolist()) for rows in drawn}) == 5
    for rows in drawn:
        assert rows.unique().equal(rows) and len(rows) == 40 and rows.min() >= 0 and rows.max() < 100


@pytest.mark.parametrize("name", STATISTICS)
def test_points_are_the_statistic_of_these_rows_alone(name: str) -> None:
    x, y = pairs()
    options = {"statistics": [name], "permutations": 3, "seed": 2}
    (whole,) = correlate(x, y, labels=LABELS, **options)  # type: ignore[arg-type]
    (found,) = correlate(x, y, labels=LABELS, class_subsets=True, subsamples=[45, 30], draws=2, **options)  # type: ignore[arg-type]
    assert same(found, whole)
    assert [(point.size, len(point.classes)) for point in found.class_subsets] == [(k, k) for k in (1, 1, 2, 2, 3)]
    last = found.class_subsets[-1]
    assert same(last.statistic, whole) and (last.classes, last.n) == ((3, 5, 7), 60)
    if name != "idcor":  # whose columns stay standardised on all rows
        for point in found.class_subsets[:-1]:
            rows = torch.isin(LABELS, torch.tensor(point.classes))
            (alone,) = correlate(x[rows], y[rows], labels=LABELS[rows], **options)  # type: ignore[arg-type]
            assert same(point.statistic, alone)
    assert [(point.size, point.n) for point in found.subsamples] == [(30, 30), (30, 30), (45, 45), (45, 45), (60, 60)]
    assert same(found.subsamples[-1].statistic, whole)
    rows = subsample(60, 30, 2, 1)
    (alone,) = correlate(x[rows], y[rows], labels=LABELS[rows], **options)  # type: ignore[arg-type]
    assert same(found.subsamples[1].statistic, alone)


@pytest.mark.parametrize("name", ["idcor", "cosine"])
def test_the_control_has_as_many_pairs_of_all_classes(name: str) -> None:
    x, y = pairs()
    labels = torch.where(torch.arange(60) < 20, 3, torch.where(torch.arange(60) < 45, 5, 7))
    (found,) = correlate(x, y, labels=labels, statistics=[name], permutations=3, seed=2, class_subsets=True, draws=2)
    assert [(one.size, one.n) for one in found.equal_pairs] == [(one.size, one.n) for one in found.class_subsets]
    assert same(found.equal_pairs[-1].statistic, found)
    rows = subsample(60, found.class_subsets[0].n, 2, 1)
    (alone,) = correlate(x[rows], y[rows], statistics=[name], permutations=1)
    whole = prepare(x, y, Options())
    assert whole.subset is not None
    first = found.equal_pairs[0].statistic
    assert first is not None and len(labels[rows].unique()) == 3
    # as for subsets of classes, IdCor's columns stay standardised on all rows
    assert first.observed == (whole.subset(rows) if name == "idcor" else alone).observed


def test_idcor_of_a_subset_is_that_of_the_rows_as_they_were_standardised() -> None:
    x, y = pairs()
    whole = prepare(x, y, Options())
    assert whole.subset is not None
    every = torch.arange(60)
    assert whole.subset(every).observed == whole.observed
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert whole.subset(every).shuffled(order) == whole.shuffled(order)
    rows = torch.arange(0, 60, 2)
    scaled = [standardise(side, True)[rows] for side in (x, y)]
    anew = _by_two_nn(neighbours.prepare(scaled[0], scaled[1], torch.device("cpu")))
    part = whole.subset(rows)
    # The same distances, summed in other tiles and rounded to float32.
    assert part.observed == pytest.approx(anew.observed, abs=1e-5)
    assert part.details == pytest.approx(anew.details, rel=1e-5)


def test_subsets_with_too_few_rows_say_so_and_the_others_stand() -> None:
    x, y = pairs()
    labels = torch.where(torch.arange(60) < 5, 1, torch.where(torch.arange(60) < 30, 2, 4))
    (found,) = correlate(x, y, labels=labels, statistics=["idcor"], permutations=2, class_subsets=True, subsamples=[9])
    reasons = {point.classes: point.reason for point in found.class_subsets}
    assert reasons.pop((1,)) == "idcor needs at least 10 rows, got 5"
    assert set(reasons.values()) == {""}
    assert {point.reason for point in found.subsamples[:-1]} == {"idcor needs at least 10 rows, got 9"}
    assert found.subsamples[0] == Point(9, 9, (), None, "idcor needs at least 10 rows, got 9")


def test_other_estimators_standardise_subsets_anew() -> None:
    x, y = pairs()
    options = {"statistics": ["idcor"], "permutations": 2, "dimension": "mle"}
    (found,) = correlate(x, y, labels=LABELS, class_subsets=True, **options)  # type: ignore[arg-type]
    rows = torch.isin(LABELS, torch.tensor([3, 7]))
    (alone,) = correlate(x[rows], y[rows], labels=LABELS[rows], **options)  # type: ignore[arg-type]
    assert same(next(point for point in found.class_subsets if point.classes == (3, 7)).statistic, alone)


def test_progress_counts_subsets() -> None:
    calls: list[tuple[str, int, int]] = []
    x, y = pairs()
    correlate(
        x, y, labels=LABELS, statistics=["cosine"], permutations=1, class_subsets=True, subsamples=[20], draws=2,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    classes = [("cosine, subsets of classes", done, 5) for done in range(1, 6)]
    equal = [("cosine, as many pairs of all classes", done, 5) for done in range(1, 6)]
    assert calls[2:] == [*classes, *equal, ("cosine, subsamples", 1, 2), ("cosine, subsamples", 2, 2)]


def test_every_curve_ends_with_the_count_of_pairs_that_are_alone_in_their_class() -> None:
    x, y = pairs()
    labels = torch.cat([torch.tensor([9]), LABELS[1:]])
    options = {"statistics": ["cosine"], "permutations": 3, "class_subsets": True, "subsamples": [50], "draws": 1}
    (found,) = correlate(x, y, labels=labels, **options)  # type: ignore[arg-type]
    assert [curve[-1].alone for curve in (found.class_subsets, found.equal_pairs, found.subsamples)] == [1, 1, 1]
