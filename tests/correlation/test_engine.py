"""What holds for every statistic of the table, and the arguments of `correlate`."""

from __future__ import annotations

import functools
import importlib
import itertools
import subprocess
import sys
import warnings
from collections.abc import Sequence

import pytest
import torch
from dying import Dying, through
from scipy.stats import kstest
from torch import Tensor

from fmtool.correlation import engine, evaluate, registry
from fmtool.correlation.engine import correlate
from fmtool.correlation.evaluate import Statistic
from fmtool.correlation.nulls import Null
from fmtool.correlation.registry import STATISTICS, STATISTICS_BY_DEFAULT
from fmtool.errors import FmtoolWarning, StatisticError

NAMES = list(STATISTICS)
REPEATS, ROWS = 40, 300


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@functools.cache
def independent(name: str) -> list[Statistic]:
    """A statistic of independent data, 40 times."""
    return [
        correlate(normal(ROWS, 4, 2 * k), normal(ROWS, 4, 2 * k + 1), statistics=[name], permutations=99, seed=k)[0]
        for k in range(REPEATS)
    ]


def by_class(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of sparse rows, (240, 20) each, that share nothing but the class, one of 40: labels (240,).

    The class says which three columns are not zero.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(240) % 40
    support = torch.zeros(40, 20)
    for used in support:
        used[torch.randperm(20, generator=generator)[:3]] = 1.0
    x, y = (support[labels] * (0.2 + 0.8 * torch.rand(240, 20, generator=generator)) for _ in range(2))
    return x, y, labels


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_independent_data_lie_within_their_null(name: str) -> None:
    inside = [run.null.low <= run.observed <= run.null.high for run in independent(name)]
    assert sum(inside) >= 0.85 * REPEATS


@pytest.mark.parametrize("name", NAMES)
def test_p_of_independent_data_is_uniform(name: str) -> None:
    assert kstest([run.null.p for run in independent(name)], "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_set_with_itself_is_one_after_adjusting(name: str) -> None:
    x = normal(100, 5)
    (found,) = correlate(x, x, statistics=[name], permutations=99)
    assert found.observed == pytest.approx(1.0, abs=1e-12)
    assert found.null.adjusted == pytest.approx(1.0, abs=1e-12)
    assert found.null.p == found.null.floor == 0.01


@pytest.mark.parametrize("name", NAMES)
def test_what_only_the_class_explains(name: str) -> None:
    x, y, labels = by_class()
    (found,) = correlate(x, y, labels=labels, statistics=[name], permutations=99)
    assert found.within_class is not None
    assert found.null.p <= 0.02
    assert found.within_class.p > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_null_begins_with_the_shorter(name: str) -> None:
    x, y, labels = by_class()
    (short,) = correlate(x[:60], y[:60], labels=labels[:60] % 3, statistics=[name], permutations=100)
    (long,) = correlate(x[:60], y[:60], labels=labels[:60] % 3, statistics=[name], permutations=999)
    assert short.within_class is not None
    assert long.within_class is not None
    assert long.null.values[:100].equal(short.null.values)
    assert long.within_class.values[:100].equal(short.within_class.values)
    assert len(long.null.values) == 999


def test_same_values_alone_and_together_and_another_seed_differs() -> None:
    x, y = normal(50, 3), normal(50, 3, 1)
    together = correlate(x, y, statistics=["all", "svcca"], permutations=20, seed=3)
    assert [found.name for found in together] == NAMES
    assert [found.name for found in correlate(x, y, permutations=1)] == list(STATISTICS_BY_DEFAULT)
    for found in together:
        (alone,) = correlate(x, y, statistics=[found.name], permutations=20, seed=3)
        (other,) = correlate(x, y, statistics=[found.name], permutations=20, seed=4)
        assert alone.null.values.equal(found.null.values)
        assert alone.observed == found.observed == other.observed
        assert not other.null.values.equal(found.null.values)
        assert found.within_class is None
        assert found.n == 50


def test_arguments_are_left_alone_and_their_precision_does_not_matter() -> None:
    x, y = normal(50, 3).double().requires_grad_(), normal(50, 3, 1).double()
    before = x.detach().clone(), y.clone()
    double = correlate(x, y, statistics=["all"], permutations=5)
    assert x.equal(before[0])
    assert y.equal(before[1])
    single = correlate(x.float(), y.float(), statistics=["all"], permutations=5)
    assert [found.observed for found in single] == [found.observed for found in double]


def test_strict_counts_only_what_exceeds_the_observed_value() -> None:
    # All rows of y are alike but for one side of the sign: many shuffles tie.
    x, y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([[1.0], [1.0], [-1.0], [1.0]])
    loose = correlate(x, y, statistics=["cosine"], permutations=200)[0]
    strict = correlate(x, y, statistics=["cosine"], permutations=200, strict=True)[0]
    values = loose.null.values
    assert strict.null.values.equal(values)
    assert set(values.tolist()) == {0.5, -0.5}
    assert loose.observed == 0.5
    assert loose.null.p == (1 + int((values >= 0.5).sum())) / 201
    assert strict.null.p == 1 / 201


def test_progress_counts_every_shuffle_of_both_nulls() -> None:
    calls: list[tuple[str, int, int]] = []
    x, y, labels = by_class()
    correlate(x, y, labels=labels, statistics=["cosine"], permutations=3, progress=lambda *call: calls.append(call))
    free, within = "cosine, shuffled freely", "cosine, shuffled within classes"
    assert calls == [(free, 1, 3), (free, 2, 3), (free, 3, 3), (within, 1, 3), (within, 2, 3), (within, 3, 3)]


def numbers(found: Statistic) -> str:
    """All numbers but the curves', in full."""
    nulls = [(one.values.tolist(), one.p, one.adjusted, one.reason) for one in (found.null, found.within_class) if one]
    samples = [(name, sample.tolist()) for name, sample in sorted(found.samples.items())]
    return repr((found.name, found.n, found.observed, found.details, found.dropped, nulls, samples))


def all_numbers(statistics: Sequence[Statistic]) -> list[object]:
    """The curves' too."""
    points = [
        (point.size, point.n, point.classes, point.reason, point.statistic and numbers(point.statistic))
        for found in statistics
        for point in (*found.class_subsets, *found.subsamples)
    ]
    return [*map(numbers, statistics), *points]


def test_a_run_that_is_killed_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in every null and between them, of all rows and of points; what was finished is neither drawn nor prepared again."""
    x, y, labels = by_class()
    x[3], y[5] = 0, 0  # pairs that cosine leaves out
    run = functools.partial(
        correlate, x[:60], y[:60], labels=labels[:60] % 3, statistics=["cosine", "idcor", "svcca"], permutations=7,
        class_subsets=True, subsamples=[4, 40], draws=2,
    )  # fmt: skip
    whole = run()
    assert any(point.reason for point in whole[1].subsamples) and whole[0].dropped and whole[0].samples
    journal = Dying([])
    assert all_numbers(run(journal=journal)) == all_numbers(whole)
    saves, prepared = journal.saves, []
    prepare = engine.prepare
    monkeypatch.setattr(engine, "prepare", lambda name, *rest: (prepared.append(name), prepare(name, *rest))[1])
    assert all_numbers(run(journal=journal)) == all_numbers(whole)
    assert prepared == [] and journal.saves == saves  # all of it was there
    deaths = [0, 5, 6, 7, 12, 13, 14, 30, *range(100, saves, 37)]
    assert all_numbers(through(lambda journal: run(journal=journal), deaths)) == all_numbers(whole)


def test_what_was_begun_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = by_class()
    drawn: list[int] = []
    draw = evaluate.free_permutation
    monkeypatch.setattr(evaluate, "free_permutation", lambda n, seed, k: (drawn.append(k), draw(n, seed, k))[1])
    through(lambda journal: correlate(x, y, statistics=["cosine"], permutations=6, journal=journal), [1, 3])
    assert drawn == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"statistics": ["idcore"]},
            r"^unknown statistic 'idcore' \(did you mean 'idcor'\?\): expected one of all, cca",
        ),
        ({"permutations": 0}, "^expected at least 1 permutation, got 0$"),
        ({"draws": 0, "class_subsets": True}, "^expected at least 1 draw, got 0$"),
        ({"dimension": "mlee"}, r"^unknown dimension 'mlee' \(did you mean 'mle'\?\): expected one of corrint"),
        ({"class_subsets": True}, "^subsets of classes need labels, but there are none$"),
        ({"subsamples": [5, 20]}, "^expected sizes of subsamples from 1 to 19, as there are 20 rows; got 20$"),
        ({"subsamples": [0]}, "^expected sizes of subsamples from 1 to 19, as there are 20 rows; got 0$"),
        ({"seed": -1}, "^expected a seed of 0 or more, got -1$"),
        ({"y": torch.ones(19, 3)}, "^expected as many rows in y as in x, 20, got 19$"),
        ({"x": torch.ones(20, 0)}, "^expected at least one column in x, got none$"),
        ({"x": torch.ones(20)}, r"^expected x to be a matrix of real numbers, got torch.float32 of shape \(20,\)$"),
        ({"y": torch.ones(20, 3) * 1j}, "^expected y to be a matrix of real numbers, got torch.complex64"),
        ({"x": normal(20, 3).index_fill(0, torch.tensor(2), torch.nan)}, "^expected finite numbers in x, got 3 that"),
        ({"y": normal(20, 3).index_fill(1, torch.tensor(2), torch.inf)}, "^expected finite numbers in y, got 20 that"),
        ({"labels": torch.arange(19)}, r"^expected one label per row, shape \(20,\), got \(19,\)$"),
        ({"y": normal(20, 4), "statistics": ["cosine"]}, "^cosine needs as many columns in y as in x, 3, got 4$"),
        ({"x": normal(0, 3), "y": normal(0, 3), "statistics": ["svcca"]}, "^svcca needs at least 3 rows, got 0$"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(StatisticError, match=message):
        correlate(**{"x": normal(20, 3), "y": normal(20, 3, 1), **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_the_table_is_a_module(name: str) -> None:
    assert callable(importlib.import_module(f"fmtool.correlation.statistics.{name}").prepare)


@pytest.mark.processes
def test_the_table_can_be_read_without_heavy_imports() -> None:
    code = (
        "import sys; from fmtool.correlation.registry import STATISTICS; "
        "print(sorted({'torch', 'numpy', 'numba', 'skdim'} & set(sys.modules)), len(STATISTICS))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["[]", str(len(STATISTICS))]


def test_lazy_names() -> None:
    assert Null.__module__ == "fmtool.correlation.nulls"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = registry.nothing


@pytest.mark.parametrize(("seconds", "line"), [(0.1, "cosine: 2000 permutations take about 3 minutes"), (0.001, None)])
def test_the_time_is_said_before_what_takes_long(
    seconds: float, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, seconds)
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: next(clock))
    done = []

    def progress(label: str, count: int, total: int) -> None:
        done.append(len(told))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", FmtoolWarning)
        correlate(
            normal(20, 3),
            normal(20, 3, 1),
            labels=torch.arange(20) % 2,
            statistics=["cosine"],
            permutations=1000,
            progress=progress,
        )
    assert [str(one.message) for one in told] == ([] if line is None else [line])
    assert line is None or done[:4] == [0, 0, 0, 1]  # after three of them, besides the first


def test_a_slow_first_shuffle_is_not_taken_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([100.0], itertools.count(100.0, 0.001))
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: 0.0)
    tell = evaluate._telling_time("cosine", 2000)
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: next(clock))
    for _ in range(9):
        tell()  # a warning would be an error
