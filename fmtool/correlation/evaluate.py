"""One statistic of paired rows with its nulls, also at the points of a curve."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from fmtool.artifacts.progress import Progress
from fmtool.correlation.nulls import Null, class_permutation, free_permutation, summarise
from fmtool.correlation.statistics.base import Options, Prepared
from fmtool.errors import StatisticError, warn
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors, as_tensor, from_tensor

FREELY, WITHIN_CLASSES = "shuffled freely", "shuffled within classes"
SAMPLE = "sample "  # before the name of a sample in the journal
LONG = 60.0  # seconds above which the user is told how long the shuffles take
TIMED_SHUFFLES, TIMED_SECONDS = 3, 1.0  # that much of them is timed, whichever is reached first


@dataclass(frozen=True)
class Pairs:
    """Rows of two data sets, row i of one belonging to row i of the other."""

    x: Tensor  # (n, d1) float64
    y: Tensor  # (n, d2) float64
    labels: Tensor | None  # (n,) integers, small and not below 0

    def __len__(self) -> int:
        return len(self.x)

    def of(self, rows: Tensor) -> Pairs:
        """Some of them, (m,) int64."""
        return Pairs(self.x[rows], self.y[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True)
class Shuffles:
    """How nulls are drawn, and the journal that they are recorded in; see `engine.correlate`."""

    permutations: int
    seed: int
    strict: bool
    journal: Journal = NO_JOURNAL


@dataclass(frozen=True)
class Statistic:
    """One statistic of two paired data sets with its nulls."""

    name: str  # a key of STATISTICS
    n: int  # rows used; those that the statistic left out are in dropped
    observed: float
    details: dict[str, float]  # numbers that explain it; see the statistic's module
    dropped: dict[str, int]  # reason -> how many were left out; non-zero entries only
    null: Null  # rows of y shuffled freely
    within_class: Null | None  # rows of y shuffled among those of the same label, when there are labels
    samples: dict[str, Tensor] = field(default_factory=dict)  # see the statistic's module
    class_subsets: tuple[Point, ...] = ()  # see `curves`; empty unless asked for
    equal_pairs: tuple[Point, ...] = ()
    subsamples: tuple[Point, ...] = ()
    trims: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Point:
    """A statistic of some of the pairs, or the reason why it has none."""

    size: float  # its position on the curve: number of classes, number of pairs requested, or threshold
    n: int  # pairs
    classes: tuple[int, ...]  # labels of a class subset, ascending, else empty
    statistic: Statistic | None
    reason: str  # why there is no statistic, else ""
    columns: tuple[int, int] | None = None  # of x and y that hold a non-zero entry, on a curve over thresholds
    alone: int = 0  # pairs of some of the rows that have no other of their class to be exchanged with


def alone_in_class(labels: Tensor) -> int:
    """How many pairs have no other one of their class, labels (n), to be exchanged with."""
    return int((torch.unique(labels, return_counts=True)[1] == 1).sum())


def prepare(name: str, pairs: Pairs, options: Options) -> Prepared:
    """Call the statistic's module."""
    module = importlib.import_module(f"fmtool.correlation.statistics.{name}")
    return cast("Callable[[Tensor, Tensor, Options], Prepared]", module.prepare)(pairs.x, pairs.y, options)


def evaluate(
    name: str,
    part: str,
    prepared: Callable[[], Prepared],
    labels: Tensor | None,
    n: int,
    shuffles: Shuffles,
    progress: Progress | None = None,
    tells_time: bool = False,
) -> Statistic:
    """The statistic with its nulls, the second one if there are labels (n,).

    part: its name in the journal. A part finished earlier is not prepared again; one already started continues after its last
    shuffle. tells_time: warn how long the shuffles take if that is more than a minute, judging by the first few.
    """
    journal = shuffles.journal
    kinds: dict[str, Tensor | None] = {FREELY: None}
    if labels is not None and n > alone_in_class(labels):  # else no shuffle would change anything
        kinds[WITHIN_CLASSES] = labels
    before = journal.part(part)
    if before is not None:
        return _finished(name, n, shuffles.strict, before)
    ready = prepared()
    begun = journal.load()
    drawn = begun if begun is not None and from_tensor(begun["part"]) == part else {"part": as_tensor(part)}
    left = len(kinds) * shuffles.permutations - sum(len(drawn.get(kind, ())) for kind in kinds)
    tell = _telling_time(name, left if tells_time else 0)

    def null(kind: str, classes: Tensor | None) -> None:
        """The values of this null in `drawn`."""
        values = torch.empty(shuffles.permutations, dtype=torch.float64)
        done = len(drawn.get(kind, ()))
        if done:
            values[:done] = drawn[kind]
        for k in range(done, shuffles.permutations):
            seed = shuffles.seed
            permutation = free_permutation(n, seed, k) if classes is None else class_permutation(classes, seed, k)
            values[k] = ready.shuffled(permutation)
            tell()
            drawn[kind] = values[: k + 1]
            journal.save(lambda: drawn)
            if progress is not None:
                progress(f"{name}, {kind}", k + 1, shuffles.permutations)

    for kind, classes in kinds.items():
        null(kind, classes)
    numbers = {"observed": ready.observed, "details": ready.details, "dropped": ready.dropped}
    samples = {f"{SAMPLE}{what}": sample.clone() for what, sample in ready.samples.items()}
    whole = {"numbers": as_tensor(numbers), **{kind: drawn[kind] for kind in kinds}, **samples}
    journal.finish(part, whole)
    return _finished(name, n, shuffles.strict, whole)


def _telling_time(name: str, shuffles: int) -> Callable[[], None]:
    """A function to call after each of so many shuffles, which says once how long all of them take, if that is long."""
    started, done, told = math.nan, -1, False

    def tell() -> None:
        nonlocal started, done, told
        done += 1
        if not done:  # the first shuffle also loads or compiles code: time runs from its end
            started = time.monotonic()
            return
        if told or (done < TIMED_SHUFFLES and time.monotonic() - started < TIMED_SECONDS):
            return
        told = True
        seconds = (time.monotonic() - started) / done * shuffles
        if seconds > LONG:
            warn(f"{name}: {shuffles} permutations take about {seconds / 60:.0f} minutes")

    return tell


def _finished(name: str, n: int, strict: bool, part: Tensors) -> Statistic:
    """The statistic of a finished part."""
    numbers = from_tensor(part["numbers"])
    kinds = [kind for kind in (FREELY, WITHIN_CLASSES) if kind in part]
    if not (math.isfinite(numbers["observed"]) and all(bool(part[kind].isfinite().all()) for kind in kinds)):
        raise StatisticError(f"{name}: expected finite values of the pairs and of all shuffles, got NaN or infinity")
    nulls = {kind: summarise(numbers["observed"], part[kind], strict) for kind in kinds}
    samples = {key.removeprefix(SAMPLE): sample for key, sample in part.items() if key.startswith(SAMPLE)}
    return Statistic(name, n, **numbers, null=nulls[FREELY], within_class=nulls.get(WITHIN_CLASSES), samples=samples)
