"""Correlate two paired data sets: each statistic as they are, shuffled freely, and shuffled within classes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fmtool.correlation import STATISTICS
from fmtool.correlation.nulls import Null, class_permutation, free_permutation, summarise
from fmtool.correlation.prepared import Options, Prepared
from fmtool.errors import StatisticError, unknown

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is


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


def correlate(
    x: Tensor,
    y: Tensor,
    *,
    labels: Tensor | None = None,
    statistics: Sequence[str] = tuple(STATISTICS),
    permutations: int = 999,
    seed: int = 0,
    row_normalise: bool = True,
    strict: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[Statistic, ...]:
    """Statistics of x (n, d1) and y (n, d2), row i of one belonging to row i of the other, in the order asked for.

    x, y: real, finite, any dtype; computed in float64 where not said otherwise.
    labels: (n,) integers; with them comes a second null, shuffled within each label.
    permutations: shuffles a null, >= 1. Shuffle k depends on (seed, k) and on n or labels alone, so that all
        statistics share it and a longer null begins with the shorter one.
    row_normalise: scale rows to unit length before IdCor, as the authors do.
    strict: p counts shuffles > the observed value (the authors' count), not >=.
    device: where IdCor's neighbours are looked for and SVCCA's products taken: "cpu", "cuda" or "cuda:N".
    progress: called as progress(label, done, total) after each shuffle.

    Raises StatisticError for whatever the rows or the arguments don't allow.
    """
    for name in statistics:
        if name not in STATISTICS:
            raise StatisticError(unknown("statistic", name, STATISTICS))
    if permutations < 1:
        raise StatisticError(f"expected at least 1 permutation, got {permutations}")
    if seed < 0:
        raise StatisticError(f"expected a seed of 0 or more, got {seed}")
    x, y = _matrix(x, "x"), _matrix(y, "y")
    if len(x) != len(y):
        raise StatisticError(f"expected as many rows in y as in x, {len(x)}, got {len(y)}")
    if labels is not None:
        if labels.shape != (len(x),):
            raise StatisticError(f"expected one label a row, shape ({len(x)},), got {tuple(labels.shape)}")
        kinds, labels = torch.unique(labels.detach().cpu(), return_inverse=True)  # counted from 0
        labels = labels.short() if len(kinds) < 2**15 else labels  # NumPy sorts these by radix
    options = Options(row_normalise=row_normalise, device=device)

    def null(name: str, prepared: Prepared, classes: Tensor | None) -> Null:
        label = f"{name}, shuffled freely" if classes is None else f"{name}, shuffled within classes"
        values = torch.empty(permutations, dtype=torch.float64)
        for k in range(permutations):
            drawn = free_permutation(len(x), seed, k) if classes is None else class_permutation(classes, seed, k)
            values[k] = prepared.shuffled(drawn)
            if progress is not None:
                progress(label, k + 1, permutations)
        return summarise(prepared.observed, values, strict)

    # One statistic after the other, drawing the shuffles again, as a matrix of all pairs may be kept by each.
    results = []
    for name in statistics:
        prepare = cast(
            "Callable[[Tensor, Tensor, Options], Prepared]",
            importlib.import_module(f"fmtool.correlation.{name}").prepare,
        )
        prepared = prepare(x, y, options)
        results.append(
            Statistic(
                name=name,
                n=len(x),
                observed=prepared.observed,
                details=prepared.details,
                dropped=prepared.dropped,
                null=null(name, prepared, None),
                within_class=None if labels is None else null(name, prepared, labels),
            )
        )
        del prepared  # before the next one asks for as much memory
    return tuple(results)


def _matrix(data: Tensor, what: str) -> Tensor:
    """The rows as float64 on the CPU, (n, d), after checking that they are a finite real matrix."""
    if data.ndim != 2 or data.is_complex():
        raise StatisticError(
            f"expected {what} to be a matrix of real numbers, got {data.dtype} of shape {tuple(data.shape)}"
        )
    if data.shape[1] == 0:
        raise StatisticError(f"expected at least one column in {what}, got none")
    data = data.detach().to("cpu", torch.float64)
    bad = int((~data.isfinite()).sum())
    if bad:
        raise StatisticError(f"expected finite numbers in {what}, got {bad} that are NaN or infinite")
    return data
