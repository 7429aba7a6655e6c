"""Permutation nulls: which shuffles are drawn, and what their values say about the observed one.

All statistics see the same shuffles, because each is drawn from the seed and its own number alone: asking for more
statistics, or for more shuffles, changes none of those that were there before.
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
# order differs by rounding (1e-16 an operation), two statistics that truly differ by far more.
TIE = 1e-10
FREE, WITHIN = 0, 1  # tells the two kinds of shuffle apart in the random generator's seed


@dataclass(frozen=True)
class Null:
    """Distribution of a statistic when rows are paired at random (DESIGN, section 4, "Nulls").

    p = (1 + b) / (1 + N), b of N shuffles being >= the observed value, or, when strict, > it, as the authors count
    (their shuffled d < d). It can't be smaller than `floor`. `adjusted` puts chance at 0 and identity at 1, as the
    adjusted Rand index does; NaN, with a reason, where the null's mean is not below 0.95.
    """

    values: Tensor  # (N,) float64 statistic of each shuffle
    mean: float
    low: float  # 2.5 % quantile
    high: float  # 97.5 % quantile
    p: float
    floor: float  # 1 / (1 + N)
    adjusted: float  # (observed - mean) / (1 - mean), or NaN
    reason: str  # why adjusted is NaN, else ""


def free_permutation(rows: int, seed: int, number: int) -> Tensor:
    """Shuffle `number` (from 0) of all rows: (rows,) int64."""
    return torch.from_numpy(np.random.default_rng((seed, FREE, number)).permutation(rows))


def class_permutation(labels: Tensor, seed: int, number: int) -> Tensor:
    """Shuffle `number` (from 0) of the rows of each class among themselves: labels (n,) integers -> (n,) int64.

    One sort of n numbers: the labels should be small (`engine` counts them from 0), lest they swallow the random digits.
    """
    classes = labels.numpy()
    order = np.random.default_rng((seed, WITHIN, number)).random(len(classes))
    permutation = np.empty(len(classes), dtype=np.int64)
    # Both sides list the rows class by class: the left in their own order, the right in a random one.
    permutation[np.argsort(classes, kind="stable")] = np.argsort(classes + order)
    return torch.from_numpy(permutation)


def summarise(observed: float, values: Tensor, strict: bool) -> Null:
    """The null that the shuffles' values (N,) float64 make for an observed value."""
    count = len(values)
    slack = TIE * max(1.0, abs(observed))
    reached = values > observed + slack if strict else values >= observed - slack
    mean = float(values.mean())
    low, high = torch.quantile(values, torch.tensor(INTERVAL, dtype=torch.float64)).tolist()
    adjustable = mean < ADJUSTABLE_BELOW
    return Null(
        values=values,
        mean=mean,
        low=low,
        high=high,
        p=(1 + int(reached.sum())) / (1 + count),
        floor=1 / (1 + count),
        adjusted=(observed - mean) / (1 - mean) if adjustable else math.nan,
        reason="" if adjustable else f"the null's mean, {mean:.3f}, is not below {ADJUSTABLE_BELOW}",
    )
