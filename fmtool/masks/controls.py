"""Does it matter which entries a mask keeps, or only how many? Compare the mask with controls that put its values elsewhere.

A control keeps the same number of entries of the full mask, with the same values, and is symmetric. Entries that are equal in
every mask (in the Fourier basis k and -k) form an orbit, and values move only among orbits that count equally often, over all
channels. So every control has exactly the mask's l1 norm and its count of kept entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fmtool.masks import radial
from fmtool.masks.basis import Array, Basis

DENSE = 8  # where more than one place in so many gets a value, all places are put in a random order
FLIPS = 999  # of signs, in a test of paired differences
TIE = 1e-9  # sums of differences closer than this are ties that differ by rounding only


def rearranged(masks: Tensor, scores: Tensor, ties: Tensor, basis: Basis) -> Tensor:
    """The masks' values, largest first, on the orbits in the order of their scores, largest first.

    masks, scores, ties (n, c, rows, columns): masks in [0, 1] and symmetric, scores read at one place of an orbit, ties random
    numbers that order orbits of equal score. Gives masks of the same shape.
    """
    score, tie = scores.flatten(1).numpy(), ties.flatten(1).numpy()

    def order(values: Array, places: Array) -> tuple[Array, Array, Array]:
        count = int((values > 0).sum(axis=1).max())  # zeros need no place: most of a mask is zeros
        first = _first(score[:, places], tie[:, places], count)
        return np.arange(len(values))[:, None], first, -np.sort(_smallest(-values, count))

    return _moved(masks, basis, order)


def scattered(masks: Tensor, generators: Sequence[torch.Generator], basis: Basis) -> Tensor:
    """The masks' values on random orbits, each way of placing them as likely as any other.

    masks (n, c, rows, columns) in [0, 1], symmetric; generators (n): each places a mask's values, whatever other masks there are.
    """

    def draw(values: Array, _: Array) -> tuple[Array, Array, Array]:
        kept, size = values > 0, values.shape[1]
        counts = kept.sum(axis=1)
        few = counts <= size // DENSE
        draws = np.zeros((len(values), counts[few].max(initial=0)))
        ways = np.zeros((len(values), counts.max()), dtype=np.int64)
        for row in counts.nonzero()[0].tolist():
            generator, count = generators[row], int(counts[row])
            if few[row]:
                draws[row, :count] = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
            else:
                ways[row, :count] = torch.randperm(size, generator=generator)[:count].numpy()
        ways[few, : draws.shape[1]] = _distinct(draws[few], size)
        used = np.arange(ways.shape[1]) < counts[:, None]
        return used.nonzero()[0], ways[used], values[kept]

    return _moved(masks, basis, draw)


def _moved(masks: Tensor, basis: Basis, place: Callable[[Array, Array], tuple[Array, Array, Array]]) -> Tensor:
    """Masks (n, c, rows, columns) whose values `place` puts elsewhere: from those of a group of orbits, (n, m) over all channels,
    not all 0, and their places in the flattened mask, (m), to rows, numbers of orbits, and the values there. By NumPy's indexing,
    which is three times as fast as torch's.
    """
    values = masks.flatten(1).numpy()
    moved = np.zeros_like(values)
    for places, equals in _orbits(basis, masks.shape[1]):
        own = values[:, places]
        if own.any():
            rows, orbits, placed = place(own, places)
            moved[rows, places[orbits]] = moved[rows, equals[orbits]] = placed
    return torch.from_numpy(moved).view(masks.shape)


def _distinct(draws: Array, count: int) -> Array:
    """(n, k) int32: in each row distinct numbers below `count`, in the order in which they are drawn, from (n, k) in [0, 1).

    The first steps of a Fisher-Yates shuffle, for all rows at once, which lie one after the other.
    """
    n, steps = draws.shape
    left = np.tile(np.arange(count, dtype=np.int32), n)
    step = np.arange(steps)[:, None]
    next_ = count * np.arange(n) + step
    for here, there in zip(next_, next_ + (draws.T * (count - step)).astype(np.int32), strict=True):
        taken = left[there]
        left[there] = left[here]
        left[here] = taken
    return left.reshape(n, count)[:, :steps]


def _smallest(values: Array, count: int) -> Array:
    """(n, count): the smallest of (n, m) values, the last of them in the last column. NumPy's way is faster than torch's."""
    return np.partition(values, count - 1, axis=1)[:, :count]


def _first(scores: Array, ties: Array, count: int) -> Array:
    """(n, count) int64: the places of the highest scores (n, m) in their order, equal ones in the order of their ties (n, m)."""
    last = -_smallest(-scores, count)[:, -1:]
    # all above the last score, then as many as are missing of those that equal it
    key = np.where(scores > last, -np.inf, np.where(scores == last, ties, np.inf))
    chosen = np.argpartition(key, count - 1, axis=1)[:, :count]
    order = np.lexsort((np.take_along_axis(ties, chosen, 1), -np.take_along_axis(scores, chosen, 1)), axis=1)
    return np.take_along_axis(chosen, order, 1)


@lru_cache(maxsize=32)
def _orbits(basis: Basis, channels: int) -> list[tuple[Array, Array]]:
    """`Basis.orbits` over all channels: places in a mask that is flattened with its channels."""
    starts = np.arange(channels)[:, None] * (basis.shape[0] * basis.shape[1])
    return [((starts + places.numpy()).ravel(), (starts + equals.numpy()).ravel()) for places, equals in basis.orbits()]


def is_symmetric(masks: Tensor, basis: Basis) -> bool:
    """Whether entries of (n, c, rows, columns) masks that are stored more than once are equal."""
    values = masks.flatten(2)
    return all(torch.equal(values[..., places], values[..., equals]) for places, equals in basis.orbits())


def partners(targets: Sequence[int], names: Sequence[tuple[int, int]], draws: Tensor, *, same: bool) -> Tensor:
    """(n) int64: for each row another one of the same target, or one of a different target; -1 if there is none.

    names: (key, index) of each row, which put the candidates in order, so that the choice does not depend on the rows' order.
    draws (n) float64 in [0, 1): which candidate.
    """
    order = sorted(range(len(targets)), key=lambda row: (targets[row], names[row]))
    place = {row: at for at, row in enumerate(order)}
    ends: dict[int, tuple[int, int]] = {}  # target -> where its rows begin and end in `order`
    for at, row in enumerate(order):
        ends[targets[row]] = (ends.get(targets[row], (at, at))[0], at + 1)
    chosen_rows = []
    for row, draw in enumerate(draws.tolist()):
        start, end = ends[targets[row]]
        count = end - start - 1 if same else len(order) - (end - start)
        chosen = int(draw * count)
        if same:
            chosen += start
            chosen += chosen >= place[row]
        elif chosen >= start:
            chosen += end - start
        chosen_rows.append(order[chosen] if count else -1)
    return torch.tensor(chosen_rows, dtype=torch.int64)


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % confidence interval over images; NaN if there are too few."""

    value: float
    low: float
    high: float


def share(successes: Tensor) -> Interval:
    """The mean of (n) values in [0, 1] with Wilson's interval for a share.

    Exact for values of 0 and 1; means over draws scatter less, and for them the interval is too wide rather than too narrow.
    """
    n = len(successes)
    if not n:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(successes.double().mean())
    return Interval(mean, *radial.share_interval(mean, n))


def difference(a: Tensor, b: Tensor) -> Interval:
    """The mean of the paired differences a - b (n) of values in [0, 1], with the normal approximation's interval over the pairs,
    which is cut off at -1 and 1.

    Where all differences are equal, that would be a point. There it is Newcombe's interval of independent shares (1998,
    method 10), from Wilson's of both: for pairs that agree too wide rather than too narrow.
    """
    paired = a.double() - b.double()
    mean = float(paired.mean()) if len(paired) else math.nan
    if len(paired) > 1 and float(paired.std()) < TIE:
        of_a, of_b = share(a), share(b)
        below = math.hypot(of_a.value - of_a.low, of_b.high - of_b.value)
        above = math.hypot(of_a.high - of_a.value, of_b.value - of_b.low)
        return Interval(mean, max(mean - below, -1.0), min(mean + above, 1.0))
    half = radial.Z95 * float(paired.std()) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
    return Interval(mean, max(mean - half, -1.0), min(mean + half, 1.0))


def sign_flip_p(a: Tensor, b: Tensor, seed: int, flips: int = FLIPS) -> float:
    """One-sided p of "a is larger": (1 + #{flipped sum >= observed sum}) / (1 + flips), the signs of the differences drawn.

    a, b (n). Under the null that a pair's two values are exchangeable, the sign of its difference is random. NaN without pairs.
    """
    paired = (a.double() - b.double()).numpy()
    if not len(paired):
        return math.nan
    random = np.random.default_rng(seed)
    reached = sum(
        float(paired @ (2.0 * random.integers(0, 2, len(paired)) - 1)) >= float(paired.sum()) - TIE
        for _ in range(flips)
    )
    return (1 + reached) / (1 + flips)


@dataclass(frozen=True)
class Control:
    """One way of filtering: the share of n images that end in their target class, and the fitted masks' share minus it, paired.

    difference: None for the fitted masks themselves; p: of "the fitted masks keep more", None if not tested.
    """

    name: str
    n: int
    preserved: Interval
    difference: Interval | None = None
    p: float | None = None


@dataclass(frozen=True)
class MaskCheck:
    """The result of `check_masks`. about: "essential", "adversarial" or "class"; the first control is no filter, the second the
    fitted masks. kept_entries: their median over the masks, of `entries` of the full mask. suffix: basis, layer and objective
    that are not the paper's (`masks.registry.mask_suffix`).
    """

    about: str
    attack: str | None
    n: int
    draws: int
    flips: int
    kept_entries: float
    entries: int
    controls: list[Control]
    suffix: str = ""
