"""Is it the places that a mask keeps, or only how many? Controls that put its values elsewhere, and how they compare with it.

A control keeps the same number of entries of the full spectrum, with the same values, and is symmetric. Entries k and -k are one
orbit: those that mirror themselves count once, all others twice, and values move only among orbits that count as often, over
all channels. So every control has the mask's l1 norm and its count of kept entries exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmtool.masks import radial
from fmtool.masks.spectrum import half_width, mirror_rows, self_mirrored

FLIPS = 999  # of signs, in a test of paired differences
TIE = 1e-9  # sums of differences nearer than this are ties: they differ by rounding alone


def orbits(h: int, w: int) -> list[tuple[Tensor, Tensor]]:
    """Places (m) and their mirror images (m) in the flattened half spectrum: first those that count once, then the pairs.

    A pair stands once in the columns between, where its mirror image is not stored, and in two rows of the others.
    """
    f = half_width(w)
    mirror = torch.arange(h * f).view(h, f)
    for column in self_mirrored(w):
        mirror[:, column] = mirror[mirror_rows(h, mirror.device), column]
    place, mirror = torch.arange(h * f), mirror.flatten()
    single = torch.zeros(h, f, dtype=torch.bool)
    single[:, self_mirrored(w)] = True
    once = single.flatten() & (place == mirror)
    pair = ~once & (place <= mirror)
    return [(place[some], mirror[some]) for some in (once, pair)]


def rearranged(masks: Tensor, scores: Tensor, ties: Tensor, w: int) -> Tensor:
    """The masks' values, largest first, on the orbits in the order of their scores, largest first.

    masks, scores, ties (n, c, h, w // 2 + 1), zero frequency in the corner: masks symmetric, scores read at one place of an
    orbit, ties random numbers that put orbits of equal score in order. Gives masks of the same shape.
    """
    n, c, h, f = masks.shape
    values, scores, ties = (one.reshape(n, c, h * f) for one in (masks, scores, ties))
    made = torch.empty_like(values)
    for places, mirrors in orbits(h, w):
        flat = (one[..., places].flatten(1) for one in (values, scores, ties))
        largest, score, tie = next(flat).sort(dim=1, descending=True).values, next(flat), next(flat)
        order = tie.argsort(dim=1)
        order = order.gather(1, score.gather(1, order).argsort(dim=1, descending=True, stable=True))
        moved = torch.empty_like(largest).scatter_(1, order, largest).view(n, c, len(places))
        made[..., places] = moved
        made[..., mirrors] = moved
    return made.view(n, c, h, f)


def is_symmetric(masks: Tensor, w: int) -> bool:
    """Whether (n, c, h, w // 2 + 1) masks have equal rows k and -k in the columns that mirror themselves."""
    mirror = mirror_rows(masks.shape[-2], masks.device)
    return all(torch.equal(masks[..., column], masks[..., mirror, column]) for column in self_mirrored(w))


def lowest_first(h: int, w: int) -> Tensor:
    """(h, w // 2 + 1) float64 scores: minus the radial frequency in cycles per pixel, so that zero frequency is largest."""
    return -torch.from_numpy(radial.frequencies(h, w))


def magnitudes(images: Tensor) -> Tensor:
    """(n, c, h, w) images to scores (n, c, h, w // 2 + 1): the absolute values of their spectra."""
    found: Tensor = torch.fft.rfft2(images).abs()
    return found


def partners(targets: Sequence[int], names: Sequence[tuple[int, int]], draws: Tensor, *, same: bool) -> Tensor:
    """(n) int64: for each row another one of the same target, or one of another target; -1 where there is none.

    names: (key, index) of each row, which put the candidates in order, so that the choice does not hang on the rows' order.
    draws (n) float64 in [0, 1): which candidate.
    """
    order = sorted(range(len(targets)), key=lambda row: (targets[row], names[row]))
    place = {row: at for at, row in enumerate(order)}
    ends: dict[int, tuple[int, int]] = {}  # target -> where its rows begin and end in `order`
    for at, row in enumerate(order):
        ends[targets[row]] = (ends.get(targets[row], (at, at))[0], at + 1)
    found = []
    for row, draw in enumerate(draws.tolist()):
        start, end = ends[targets[row]]
        count = end - start - 1 if same else len(order) - (end - start)
        chosen = int(draw * count)
        if same:
            chosen += start
            chosen += chosen >= place[row]
        elif chosen >= start:
            chosen += end - start
        found.append(order[chosen] if count else -1)
    return torch.tensor(found, dtype=torch.int64)


@dataclass(frozen=True)
class Interval:
    """A value and what encloses it with 95 % confidence over images; NaN where there are too few."""

    value: float
    low: float
    high: float


def share(kept: Tensor) -> Interval:
    """The mean of (n) values in [0, 1] with Wilson's interval for a share.

    For 0 and 1 that is Wilson's own; means over draws scatter less than a yes or no, and for them it is too wide, not too narrow.
    """
    n = len(kept)
    if not n:
        return Interval(math.nan, math.nan, math.nan)
    mean, z2 = float(kept.double().mean()), radial.Z95**2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = radial.Z95 / (1 + z2 / n) * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))  # despite rounding


def difference(a: Tensor, b: Tensor) -> Interval:
    """The mean of the paired differences a - b (n), with the normal approximation's interval over the pairs."""
    paired = a.double() - b.double()
    mean = float(paired.mean()) if len(paired) else math.nan
    half = radial.Z95 * float(paired.std()) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
    return Interval(mean, mean - half, mean + half)


def sign_flip_p(a: Tensor, b: Tensor, seed: int, flips: int = FLIPS) -> float:
    """One-sided p of "a is larger": (1 + #{flipped sum >= observed sum}) / (1 + flips), the signs of the differences drawn.

    a, b (n). Under the null that a pair's two values may change places, the sign of its difference is a coin. NaN without pairs.
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
    """One way of filtering: the share of n images that end in their target, and the fitted masks' share minus it, paired.

    difference: None for the fitted masks themselves; p: of "the fitted masks keep more", None where that isn't tested.
    """

    name: str
    n: int
    kept: Interval
    difference: Interval | None = None
    p: float | None = None


@dataclass(frozen=True)
class MaskCheck:
    """What `check_masks` finds. about: "essential", "adversarial" or "class"; the first control is no filter, the second the
    masks as they are. kept_entries: their median over the masks, of `entries` of the full spectrum.
    """

    about: str
    attack: str | None
    n: int
    draws: int
    flips: int
    kept_entries: float
    entries: int
    controls: list[Control]
