"""Correlate two paired data sets: each statistic as paired, shuffled freely, and shuffled within classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fmtool.artifacts.progress import Progress
from fmtool.correlation.curves import Setting, over_classes, over_equal_rows, over_rows, over_thresholds
from fmtool.correlation.evaluate import Pairs, Shuffles, Statistic, evaluate, prepare
from fmtool.correlation.registry import (
    ALL,
    DIMENSION,
    DIMENSIONS,
    PERMUTATIONS,
    STATISTICS,
    STATISTICS_BY_DEFAULT,
    SUBSET_DRAWS,
)
from fmtool.correlation.statistics.base import Options
from fmtool.errors import StatisticError, unknown, warn
from fmtool.runtime.journal import NO_JOURNAL, Journal

# that an entry takes at most, as float32, as float64 and in what is derived; measured at 300 x 150,528
BYTES = 36
SURELY_FREE = 1e9  # bytes for which one need not ask


# Over 60 lines, more than half of them signature and docstring.
def correlate(
    x: Tensor,
    y: Tensor,
    *,
    labels: Tensor | None = None,
    statistics: Sequence[str] = STATISTICS_BY_DEFAULT,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    row_normalise: bool = True,
    dimension: str = DIMENSION,
    strict: bool = False,
    device: str = "cpu",
    class_subsets: bool = False,
    subsamples: Sequence[int] = (),
    draws: int = SUBSET_DRAWS,
    thresholds: Sequence[float] = (),
    trimmed: Callable[[float], tuple[Tensor, Tensor]] | None = None,
    leave_out: Callable[[str, str], None] | None = None,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
) -> tuple[Statistic, ...]:
    """Statistics of x (n, d1) and y (n, d2), row i of one belonging to row i of the other, in the order asked for.

    x, y: real, finite, any dtype; computed in float64 unless stated otherwise.
    labels: (n,) integers; with them comes a second null, shuffled within each label.
    statistics: keys of STATISTICS; "all" means all of them.
    permutations: shuffles per null, >= 1. Shuffle k depends on (seed, k) and on n or labels alone, so that all
        statistics share it and a longer null begins with the shorter one.
    row_normalise: scale rows to unit length before IdCor, as the authors do.
    dimension: a key of DIMENSIONS, for IdCor.
    strict: p counts shuffles > the observed value (the authors' count), not >=.
    device: where IdCor searches for neighbours and matrices are multiplied: "cpu", "cuda" or "cuda:N".
    class_subsets: also give each statistic for `draws` random subsets of k classes, k from 1 to all, and for as many random pairs
        of all classes; needs labels.
    subsamples: sizes below n; each statistic is also given for `draws` random subsamples of each size.
    thresholds: if there are several, each statistic is also given for `trimmed(threshold)`, x and y with all entries up to
        the threshold set to 0. At the first threshold these are x and y themselves.
    leave_out: called as leave_out(name, reason) for a statistic that these rows don't allow, which is then left out; without it,
        or if none is left, this is an error.
    progress: called as progress(label, done, total) after each shuffle of all rows and each subset.
    journal: where to resume from, with the same rows and arguments.

    Raises StatisticError if the rows or the arguments don't allow this.
    """
    names = chosen(statistics)
    if dimension not in DIMENSIONS:
        raise StatisticError(unknown("dimension", dimension, DIMENSIONS))
    for count, what in ((permutations, "permutation"), (draws, "draw")):
        if count < 1:
            raise StatisticError(f"expected at least 1 {what}, got {count}")
    if seed < 0:
        raise StatisticError(f"expected a seed of 0 or more, got {seed}")
    pairs, kinds = _pairs(x, y, labels)
    sizes = _sizes(subsamples, len(pairs))
    if class_subsets and labels is None:
        raise StatisticError("subsets of classes need labels, but there are none")
    shuffles = Shuffles(permutations, seed, strict, journal)
    options = Options(row_normalise=row_normalise, dimension=dimension, device=device)
    setting = Setting(pairs, options, shuffles, draws, progress)

    def pairs_at(threshold: float) -> Pairs:
        assert trimmed is not None
        x, y = trimmed(threshold)
        return Pairs(_matrix(x, "x"), _matrix(y, "y"), pairs.labels)

    # One statistic after the other, drawing the shuffles again, because each may hold a matrix of all pairs.
    results, reasons = [], list[str]()
    for name in names:
        prepared = functools.cache(functools.partial(prepare, name, pairs, options))  # on first use
        try:
            whole = evaluate(name, name, prepared, pairs.labels, len(pairs), shuffles, progress, tells_time=True)
        except StatisticError as error:
            reasons.append(str(error))
            if leave_out is None or len(reasons) == len(names):
                raise StatisticError("; ".join(dict.fromkeys(reasons))) from None
            leave_out(name, str(error))
            continue
        over = over_classes(whole, prepared, kinds, setting) if class_subsets else ()
        equal = over_equal_rows(whole, prepared, over, setting)
        del prepared  # before the next one needs as much memory
        results.append(
            replace(
                whole,
                class_subsets=over,
                equal_pairs=equal,
                subsamples=over_rows(whole, sizes, setting) if sizes else (),
                trims=over_thresholds(whole, thresholds, pairs_at, setting) if len(thresholds) > 1 else (),
            )
        )
    return tuple(results)


def chosen(statistics: Sequence[str]) -> list[str]:
    """The requested names, each once; "all" means all of them."""
    if not statistics:
        raise StatisticError(f"expected at least one statistic of {', '.join([*STATISTICS, ALL])}")
    for name in statistics:
        if name not in STATISTICS and name != ALL:
            raise StatisticError(unknown("statistic", name, [*STATISTICS, ALL]))
    return list(dict.fromkeys(one for name in statistics for one in (STATISTICS if name == ALL else [name])))


def _sizes(subsamples: Sequence[int], rows: int) -> list[int]:
    """Sizes of subsamples, ascending, each once."""
    for size in subsamples:
        if not 1 <= size < rows:
            raise StatisticError(
                f"expected sizes of subsamples from 1 to {rows - 1}, as there are {rows} rows; got {size}"
            )
    return sorted(set(subsamples))


def _pairs(x: Tensor, y: Tensor, labels: Tensor | None) -> tuple[Pairs, list[int]]:
    """The rows after checking them, with labels renumbered from 0, and the original labels."""
    x, y = _matrix(x, "x"), _matrix(y, "y")
    if len(x) != len(y):
        raise StatisticError(f"expected as many rows in y as in x, {len(x)}, got {len(y)}")
    if labels is None:
        return Pairs(x, y, None), []
    if labels.shape != (len(x),):
        raise StatisticError(f"expected one label per row, shape ({len(x)},), got {tuple(labels.shape)}")
    if labels.is_complex() or bool((labels.double().frac() != 0).any()):  # also true of NaN and infinity
        raise StatisticError(f"expected labels that are integers, got others among {labels.dtype}")
    kinds, labels = torch.unique(labels.detach().cpu(), return_inverse=True)
    labels = labels.short() if len(kinds) < 2**15 else labels  # NumPy sorts these by radix
    return Pairs(x, y, labels), kinds.tolist()


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


def warn_of_memory(entries: int) -> None:
    """Warn if SVCCA or IdCor of so many entries, of both matrices, may need more memory than is free: the system would end the
    program without a word. What grows with the square of n, as for CKA, is not counted.
    """
    needed = BYTES * entries
    if needed < SURELY_FREE:
        return
    from fmtool.correlation.numerics.neighbours import free_memory

    if needed > (free := free_memory()):
        warn(
            f"these rows may need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free: --pool averages masks, and "
            "fewer pairs need less"
        )
