"""What a statistic gives to the engine: its value on the data, and a cheap way to compute it on shuffled data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fmtool.errors import StatisticError


@dataclass(frozen=True)
class Options:
    """Options passed to every statistic; each reads those that concern it.

    row_normalise: scale rows to unit length after standardising (IdCor).
    dimension: a key of DIMENSIONS, how dimensions are estimated (IdCor).
    device: where the heavy part runs: "cpu", "cuda" or "cuda:N".
    """

    row_normalise: bool = True
    dimension: str = "twonn"
    device: str = "cpu"


@dataclass(frozen=True)
class Prepared:
    """One statistic of one pair of data sets, with all work that does not depend on the pairing already done.

    A statistic's module has `prepare(x: Tensor, y: Tensor, options: Options) -> Prepared`; x (n, d1) and y (n, d2) are
    finite float64 on the CPU, n >= 1, d1, d2 >= 1. It raises StatisticError if the rows don't allow the statistic.
    """

    observed: float  # the statistic of the rows as paired
    details: dict[str, float]  # numbers that explain it
    dropped: dict[str, int]  # reason -> how many were left out; non-zero entries only
    shuffled: Callable[[Tensor], float]  # (n,) int64 permutation of y's rows -> the statistic of x and y[permutation]
    samples: dict[str, Tensor] = field(default_factory=dict)  # the values behind the observed one, for figures
    # (m,) int64 ascending rows -> the same statistic of these pairs alone, if that is cheaper than preparing it anew
    subset: Callable[[Tensor], Prepared] | None = None


def require_rows(name: str, rows: int, least: int) -> None:
    """Raise StatisticError unless there are at least `least` rows."""
    if rows < least:
        raise StatisticError(f"{name} needs at least {least} rows, got {rows}")


def within_range(data: Tensor, largest: Tensor) -> Tensor:
    """data divided by the power of two that brings `largest`, which is broadcast, near 1: squares neither overflow nor vanish."""
    exponent = torch.frexp(largest).exponent.clamp(-1020, 1020)  # of a normal number, so that the factor is one too
    return data * torch.ldexp(torch.ones_like(largest), -exponent)


def half_extents(data: Tensor) -> Tensor:
    """(d) half of how far each column of data (n, d) extends, as the whole may overflow; 0 for constant columns."""
    return data.amax(dim=0) / 2 - data.amin(dim=0) / 2


def non_zero(counts: dict[str, int]) -> dict[str, int]:
    """The non-zero counts, in the same order."""
    return {reason: count for reason, count in counts.items() if count}
