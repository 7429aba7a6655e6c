"""Statistics against the number of classes (paper, section 4.7, Figure 4), the number of pairs, and a threshold of entries.

The drawn classes and pairs depend only on the seed, their number and the position on the curve: every statistic sees the same
ones, and adding a size changes none of the others.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmtool.artifacts.progress import Progress
from fmtool.correlation.evaluate import Pairs, Point, Shuffles, Statistic, alone_in_class, evaluate, prepare
from fmtool.correlation.nulls import CLASS_SUBSETS, SUBSAMPLES
from fmtool.correlation.statistics.base import Options, Prepared
from fmtool.errors import StatisticError


def subsets_of_classes(count: int, draws: int, seed: int) -> list[tuple[int, ...]]:
    """For k = 1 to `count`, `draws` different random subsets of k classes, ascending; all of them if there are no more."""
    subsets = []
    for k in range(1, count + 1):
        if math.comb(count, k) <= draws:
            subsets += list(itertools.combinations(range(count), k))
            continue
        generator = np.random.default_rng((seed, CLASS_SUBSETS, k))
        drawn: dict[tuple[int, ...], None] = {}  # a set that keeps the order
        while len(drawn) < draws:
            drawn[tuple(sorted(generator.choice(count, size=k, replace=False).tolist()))] = None
        subsets += list(drawn)
    return subsets


def subsample(rows: int, size: int, seed: int, draw: int) -> Tensor:
    """`size` of the rows, without replacement, ascending: (size,) int64."""
    drawn = np.random.default_rng((seed, SUBSAMPLES, size, draw)).choice(rows, size=size, replace=False)
    return torch.from_numpy(np.sort(drawn))


@dataclass(frozen=True)
class Setting:
    """What all points of a statistic's curves share."""

    pairs: Pairs
    options: Options
    shuffles: Shuffles
    draws: int  # subsets for each number of classes, subsamples for each size
    progress: Progress | None

    def point(
        self,
        name: str,
        part: str,
        whole: Callable[[], Prepared] | None,
        rows: Tensor,
        size: int,
        classes: tuple[int, ...],
    ) -> Point:
        """The statistic of some rows, derived from the whole's if possible; or the reason why these rows have none."""
        some = self.pairs.of(rows)
        alone = 0 if some.labels is None else alone_in_class(some.labels)

        def prepared() -> Prepared:
            subset = whole().subset if whole is not None else None
            return prepare(name, some, self.options) if subset is None else subset(rows)

        try:
            statistic = evaluate(name, part, prepared, some.labels, len(some), self.shuffles)
        except StatisticError as error:
            return Point(size, len(some), classes, None, str(error))
        return Point(size, len(some), classes, statistic, "", alone=alone)


def over_classes(
    whole: Statistic, prepared: Callable[[], Prepared], kinds: Sequence[int], setting: Setting
) -> tuple[Point, ...]:
    """The statistic of the pairs of random subsets of classes; kinds: the label of each class. The last subset is all of them."""
    pairs = setting.pairs
    assert pairs.labels is not None
    points, label = [], f"{whole.name}, subsets of classes"
    chosen = subsets_of_classes(len(kinds), setting.draws, setting.shuffles.seed)
    for done, classes in enumerate(chosen, start=1):
        labels = tuple(kinds[one] for one in classes)
        if len(classes) == len(kinds):
            points.append(Point(len(classes), len(pairs), labels, whole, "", alone=alone_in_class(pairs.labels)))
        else:
            rows = torch.isin(pairs.labels, torch.tensor(classes)).nonzero()[:, 0]
            points.append(setting.point(whole.name, f"{label} {done}", prepared, rows, len(classes), labels))
        if setting.progress is not None:
            setting.progress(label, done, len(chosen))
    return tuple(points)


def over_equal_rows(
    whole: Statistic, prepared: Callable[[], Prepared], classes: Sequence[Point], setting: Setting
) -> tuple[Point, ...]:
    """The control of `over_classes`: for each of its points, as many random pairs of all classes, at the same position.

    Each is derived from the whole just as the subset of classes is, so that only the choice of pairs differs.
    """
    points, label = [], f"{whole.name}, as many pairs of all classes"
    for done, point in enumerate(classes, start=1):
        if point.n == len(setting.pairs):
            points.append(Point(point.size, point.n, (), whole, "", alone=point.alone))
        else:
            drawn = subsample(len(setting.pairs), point.n, setting.shuffles.seed, done)
            points.append(setting.point(whole.name, f"{label} {done}", prepared, drawn, int(point.size), ()))
        if setting.progress is not None:
            setting.progress(label, done, len(classes))
    return tuple(points)


def over_rows(whole: Statistic, sizes: Sequence[int], setting: Setting) -> tuple[Point, ...]:
    """The statistic of random subsamples of these sizes, each prepared anew; the last point is the whole."""
    rows = len(setting.pairs)
    points, label = [], f"{whole.name}, subsamples"
    for done, (size, draw) in enumerate(itertools.product(sizes, range(setting.draws)), start=1):
        drawn = subsample(rows, size, setting.shuffles.seed, draw)
        points.append(setting.point(whole.name, f"{label} {done}", None, drawn, size, ()))
        if setting.progress is not None:
            setting.progress(label, done, len(sizes) * setting.draws)
    labels = setting.pairs.labels
    return (*points, Point(rows, rows, (), whole, "", alone=0 if labels is None else alone_in_class(labels)))


def over_thresholds(
    whole: Statistic, thresholds: Sequence[float], trimmed: Callable[[float], Pairs], setting: Setting
) -> tuple[Point, ...]:
    """The statistic with all entries at or below each threshold set to 0, ascending; the whole is at the first of them.

    trimmed: gives the pairs at a threshold, with the same rows as the whole's.
    """
    points, label = [], f"{whole.name}, thresholds"
    for done, threshold in enumerate(sorted(thresholds), start=1):
        pairs = setting.pairs if threshold == thresholds[0] else trimmed(threshold)
        columns = (int((pairs.x != 0).any(dim=0).sum()), int((pairs.y != 0).any(dim=0).sum()))
        statistic: Statistic | None = whole
        reason = ""
        if threshold != thresholds[0]:
            prepared = functools.partial(prepare, whole.name, pairs, setting.options)
            part = f"{whole.name}, entries above {threshold!r}"
            try:
                statistic = evaluate(whole.name, part, prepared, pairs.labels, len(pairs), setting.shuffles)
            except StatisticError as error:
                statistic, reason = None, str(error)
        points.append(Point(threshold, len(pairs), (), statistic, reason, columns))
        if setting.progress is not None:
            setting.progress(label, done, len(thresholds))
    return tuple(points)
