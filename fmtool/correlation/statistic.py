"""One statistic of paired rows with its nulls, and the same at the points of a curve."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from fmtool.correlation.nulls import Null, class_permutation, free_permutation, summarise
from fmtool.correlation.prepared import Options, Prepared

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is


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
    """How nulls are drawn; see `engine.correlate`."""

    permutations: int
    seed: int
    strict: bool


@dataclass(frozen=True)
class Statistic:
    """One statistic of two paired data sets with its nulls."""

    name: str  # a key of STATISTICS
    n: int  # rows that entered; what a statistic then left out of them is in dropped
    observed: float
    details: dict[str, float]  # numbers that explain it; see the statistic's module
    dropped: dict[str, int]  # reason -> how many were left out; non-zero entries only
    null: Null  # rows of y shuffled freely
    within_class: Null | None  # rows of y shuffled among those of the same label, when there are labels
    samples: dict[str, Tensor] = field(default_factory=dict)  # see the statistic's module
    class_subsets: tuple[Point, ...] = ()  # see `curves`; empty unless asked for
    subsamples: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Point:
    """A statistic of some of the pairs, or why there is none."""

    size: int  # where it stands on its curve: classes, or pairs asked for
    n: int  # pairs
    classes: tuple[int, ...]  # labels of a class subset, ascending, else empty
    found: Statistic | None
    reason: str  # why there is no statistic, else ""


def prepare(name: str, pairs: Pairs, options: Options) -> Prepared:
    """Call the statistic's module."""
    module = importlib.import_module(f"fmtool.correlation.{name}")
    return cast("Callable[[Tensor, Tensor, Options], Prepared]", module.prepare)(pairs.x, pairs.y, options)


def evaluate(
    name: str, prepared: Prepared, labels: Tensor | None, n: int, shuffles: Shuffles, progress: Progress | None = None
) -> Statistic:
    """The statistic with its nulls, the second one when there are labels (n,)."""

    def null(classes: Tensor | None) -> Null:
        label = f"{name}, shuffled freely" if classes is None else f"{name}, shuffled within classes"
        values = torch.empty(shuffles.permutations, dtype=torch.float64)
        for k in range(shuffles.permutations):
            seed = shuffles.seed
            drawn = free_permutation(n, seed, k) if classes is None else class_permutation(classes, seed, k)
            values[k] = prepared.shuffled(drawn)
            if progress is not None:
                progress(label, k + 1, shuffles.permutations)
        return summarise(prepared.observed, values, shuffles.strict)

    return Statistic(
        name=name,
        n=n,
        observed=prepared.observed,
        details=prepared.details,
        dropped=prepared.dropped,
        null=null(None),
        within_class=None if labels is None else null(labels),
        samples=prepared.samples,
    )
