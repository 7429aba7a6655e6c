"""Permutation nulls: how shuffles are drawn, and where p and the chance-adjusted value are computed.

Each shuffle is drawn from the seed and its own number alone, so all statistics see the same shuffles, and asking for more
statistics or more shuffles changes none of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmtool.correlation.registry import ADJUSTABLE_BELOW

INTERVAL = (0.025, 0.975)  # the quantiles that enclose 95 % of the shuffles
# Values nearer than this, relative to the observed one where that exceeds 1, are ties: the same sum taken in another
# order differs by rounding (1e-16 per operation), while statistics that truly differ do so by far more.
TIE = 1e-10
# Numbers that tell the kinds of draw apart in the seed of the random generator.
FREE_SHUFFLES, WITHIN_CLASS_SHUFFLES, CLASS_SUBSETS, SUBSAMPLES = range(4)


@dataclass(frozen=True)
class Null:
    """Distribution of a statistic when rows are paired at random.

    `adjusted` puts chance at 0 and identity at 1, as the adjusted Rand index does; it is NaN, with a reason, where the null's
    mean is not below 0.95.
    """

    values: Tensor  # (N,) float64 statistic of each shuffle
    mean: float
    low: float  # 2.5 % quantile
    high: float  # 97.5 % quantile
    p: float  # see `p_value`
    floor: float  # 1 / (1 + N)
    adjusted: float  # (observed - mean) / (1 - mean), or NaN
    reason: str  # why adjusted is NaN, else ""


def free_permutation(rows: int, seed: int, number: int) -> Tensor:
    """Shuffle `number` (from 0) of all rows: (rows,) int64."""
    return torch.from_numpy(np.random.default_rng((seed, FREE_SHUFFLES, number)).permutation(rows))


def class_permutation(labels: Tensor, seed: int, number: int) -> Tensor:
    """Shuffle `number` (from 0) of the rows of each class among themselves: labels (n,) integers -> (n,) int64.

    One sort of n numbers. Labels should be small (`engine` counts them from 0): large ones leave few random digits.
    """
    classes = labels.numpy()
    order = np.random.default_rng((seed, WITHIN_CLASS_SHUFFLES, number)).random(len(classes))
    permutation = np.empty(len(classes), dtype=np.int64)
    # Both sides list the rows class by class: the left in their own order, the right in a random one.
    permutation[np.argsort(classes, kind="stable")] = np.argsort(classes + order)
    return torch.from_numpy(permutation)


def p_value(observed: float, values: Tensor, *, strict: bool) -> float:
    """p = (1 + b) / (1 + N), where b of the N shuffles' values (N,) float64 are >= the observed value.

    strict: b counts values > the observed one, as the authors do (their shuffled d < d). p is never below 1 / (1 + N).
    """
    slack = TIE * max(1.0, abs(observed))
    reached = values > observed + slack if strict else values >= observed - slack
    return (1 + int(reached.sum())) / (1 + len(values))


def summarise(observed: float, values: Tensor, strict: bool) -> Null:
    """The null of an observed value, from the values (N,) float64 of the shuffles."""
    mean = float(values.mean())
    low, high = torch.quantile(values, torch.tensor(INTERVAL, dtype=torch.float64)).tolist()
    adjustable = mean < ADJUSTABLE_BELOW
    return Null(
        values=values,
        mean=mean,
        low=low,
        high=high,
        p=p_value(observed, values, strict=strict),
        floor=1 / (1 + len(values)),
        adjusted=(observed - mean) / (1 - mean) if adjustable else math.nan,
        reason="" if adjustable else f"the null's mean, {mean:.3f}, is not below {ADJUSTABLE_BELOW}",
    )
