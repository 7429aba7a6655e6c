"""White-box attacks on the two-pass classifier by an attacker who knows the masks (left open in the paper, section 4.8).

(a) PGD on the two-pass classifier, which selects the mask anew at each step, the best of several random starts; (b) PGD through
the mask of one class after the other, kept where the two-pass result is wrong. The first success counts, so that an image is
right in the end only if it withstood them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.artifacts.scratch import Overlay, changeable
from fmtool.attacks import foolbox, random_starts
from fmtool.attacks.foolbox import Attacked
from fmtool.attacks.gradients import flat_gradients
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets.rows import in_parts, take
from fmtool.masks.two_pass import OneMask, TwoPass
from fmtool.models.classifier import NO_CLASS, predict, warn_unclassified
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors

TRIES = "tries"  # the part of the journal that counts the finished tries and their results


@dataclass(frozen=True)
class Adaptive:
    """The result of both ways together, and of each.

    attacked: predictions and status are the two-pass classifier's; if every try failed, the adversarial image is the
    last one's, or the clean one where that has no class. An image that has none when clean is wrong before, and both its
    predictions are recorded as the class after its label. by_two_pass: images that (a) fooled; by_class_masks: images that (a)
    didn't fool and (b) did. flat: images without any gradient at the first start of (a), which PGD can't follow.
    """

    attacked: Attacked
    by_two_pass: int
    by_class_masks: int
    flat: int


# Over 60 lines, a third of them signature and docstring.
def run(
    two_pass: TwoPass,
    images: Rows,
    labels: Tensor,
    attack: Any,
    *,
    epsilon: float,
    restarts: int,
    row_seeds: Callable[[str, int], list[int]],
    batch: int,
    device: torch.device,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
    others: bool = False,
) -> Adaptive:
    """Attack the images that `two_pass` (eval mode, frozen, on `device`) gets right, in batches padded to `batch`.

    images (n, c, h, w) float32 in [0, 1]; labels (n) int64; attack: PGD of `foolbox.build`; epsilon: the l-inf bound;
    row_seeds: gives a number per image from which its random start is drawn, for ("restart", its number) in (a) and ("mask",
    the class) in (b); journal: where to resume from; others: whether another process attacks other images.
    """
    clean = predict(two_pass, images, batch, device, journal, "clean", progress, strict=False)
    _count_as_wrong_(clean, labels, len(two_pass.masks))
    status = torch.where(clean == labels, OK, WRONG_BEFORE)
    attacked = (status == OK).nonzero().flatten()
    tries = _tries(two_pass, restarts)
    begun = journal.part(TRIES)
    adversarial = None if begun is None else _restored(images, attacked, begun, journal)
    if begun is None or adversarial is None:
        adversarial = changeable(images)
        seeds = row_seeds("restart", 0)
        starts = _Begun(take(images, attacked), [seeds[row] for row in attacked.tolist()], epsilon, attack)
        flat = flat_gradients(two_pass, starts, labels[attacked], batch, device, journal)
        first, left, withstood = 0, attacked, len(attacked)
        recorded = torch.zeros(len(attacked), dtype=torch.bool)
    else:
        first, flat, withstood = (int(begun[name]) for name in ("tries", "flat", "withstood"))
        left, recorded = begun["left"], begun["recorded"]
    for number, (what, which, network) in enumerate(tries[first:], start=first):
        candidates, wanted, seeds = changeable(take(images, left)), labels[left], row_seeds(what, which)
        of = (number + 1, restarts) if what == "restart" else (number + 1 - restarts, len(two_pass.classes))
        foolbox.perturb_(
            *(network, candidates, wanted, torch.arange(len(left)), attack),
            epsilon=epsilon,
            row_seeds=[seeds[row] for row in left.tolist()],
            batch=batch,
            device=device,
            progress=_as(f"attacking, {'start' if what == 'restart' else what} {of[0]} of {of[1]}", progress),
            journal=journal,
            trial=number,
            others=others or number > 0,  # those that withstood so far are few
            numbers=left.tolist(),
        )
        for start, some in in_parts(candidates):
            adversarial[left[start : start + len(some)]] = some
        predictions = predict(two_pass, candidates, batch, device, journal, f"try {number}", progress, strict=False)
        left = left[(predictions == wanted) | (predictions == NO_CLASS)]
        if number < restarts:
            withstood = len(left)
        # those of batches of which every image failed aren't, and keep their clean images
        for place in (~recorded).nonzero().flatten().tolist():
            recorded[place] = journal.part(str(int(attacked[place]))) is not None
        counts = {"tries": number + 1, "flat": flat, "withstood": withstood}
        state = {"left": left, "recorded": recorded, **{name: torch.tensor(count) for name, count in counts.items()}}
        journal.finish(TRIES, state)
    predictions = predict(two_pass, adversarial, batch, device, journal, "adversarial", progress, strict=False)
    foolbox.take_back_(adversarial, predictions, images, clean, status)
    status[(status == OK) & (predictions == labels)] = FAILED
    result = Attacked(adversarial, clean, predictions, status)
    return Adaptive(result, len(attacked) - withstood, withstood - len(left), flat)


def _count_as_wrong_(clean: Tensor, labels: Tensor, classes: int) -> None:
    """Put the class after the label, of this many, in place of `NO_CLASS` among the predictions (n) of clean images, as files
    hold classes only.
    """
    rows = (clean == NO_CLASS).nonzero().flatten()
    warn_unclassified(len(rows), len(clean), "clean images", "they count as wrong before the attack")
    clean[rows] = (labels[rows] + 1) % classes


def _tries(two_pass: TwoPass, restarts: int) -> list[tuple[str, int, nn.Module]]:
    """The tries in order: ("restart", its number) in (a), ("mask", the class) in (b), each with the network to attack."""
    masks = [
        ("mask", k, OneMask(two_pass.classifier, two_pass.masks[k], two_pass.basis).eval()) for k in two_pass.classes
    ]
    return [*(("restart", number, two_pass) for number in range(restarts)), *masks]


def _restored(images: Rows, rows: Tensor, begun: Tensors, journal: Journal) -> Tensor | Overlay | None:
    """The images with those of the finished tries in their places; the journal may also hold some of the next try. None if one of
    the attacked rows is damaged: finished tries are not run again for one image, so all of them are.
    """
    adversarial = changeable(images)
    for row in rows[begun["recorded"]].tolist():
        part = journal.part(str(row))
        if part is None:
            return None
        if int(part["trial"]) < int(begun["tries"]):
            adversarial[row] = part["adversarial"]
    return adversarial


def _as(label: str, progress: Progress | None) -> Progress | None:
    """Progress under another label."""
    return None if progress is None else lambda _, done, total: progress(label, done, total)


class _Begun:
    """Where PGD starts on images (n, c, h, w), clipped as Foolbox clips them; computed when they are read."""

    def __init__(self, images: Rows, seeds: list[int], epsilon: float, attack: Any) -> None:
        self.images, self.seeds, self.epsilon, self.random = images, seeds, epsilon, attack.random_start
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Tensor:
        some, seeds = self.images[rows], self.seeds[rows]
        if not self.random or not seeds:
            return some
        return (some + self.epsilon * random_starts.starts(some.shape[1:], seeds)).clamp(0, 1)
