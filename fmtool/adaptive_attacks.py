"""White-box attacks on the two-pass classifier, by an attacker who has the masks (paper, section 4.8, leaves these open).

(a) PGD on the two-pass classifier, which selects the mask anew at each step, the best of several random starts; (b) PGD through
the mask of one class after the other, kept where the two-pass result is wrong. The first success counts, so that an image is
right in the end only if it withstood them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool import attacks, workers
from fmtool.attacks import FAILED, OK, WRONG_BEFORE, Attacked, Progress
from fmtool.defense import OneMask, TwoPass
from fmtool.models.classifier import padded, predict

RESTARTS = 5  # random starts of (a)


@dataclass(frozen=True)
class Adaptive:
    """What came of both ways together, and of each.

    attacked: predictions and status are the two-pass classifier's; where every try failed, the adversarial image is the last
    one's. by_two_pass: images that (a) fooled; by_class_masks: those that (b) fooled of the ones that (a) left right.
    flat: images without any gradient where (a) starts first, which PGD can't follow.
    """

    attacked: Attacked
    by_two_pass: int
    by_class_masks: int
    flat: int


def run(
    two_pass: TwoPass,
    images: Tensor,
    labels: Tensor,
    attack: Any,
    *,
    epsilon: float,
    restarts: int,
    row_seeds: Callable[[str, int], list[int]],
    batch: int,
    device: torch.device,
    progress: Progress | None = None,
) -> Adaptive:
    """Attack the images that `two_pass` (eval mode, frozen, on `device`) gets right, in batches padded to `batch`.

    images (n, c, h, w) float32 in [0, 1]; labels (n) int64; attack: PGD of `attacks.build`; epsilon: the l-inf bound;
    row_seeds: gives a number an image from which its random start is drawn, for ("restart", its number) in (a) and ("mask",
    the class) in (b).
    """
    clean = predict(two_pass, images, batch, device)
    status = torch.where(clean == labels, OK, WRONG_BEFORE)
    adversarial, left = images.clone(), (status == OK).nonzero().flatten()

    def attempt(network: nn.Module, rows: Tensor, seeds: list[int], what: str) -> Tensor:
        """Attack `rows` (m) through `network`; gives those that `two_pass` still gets right."""
        made, wanted = images[rows], labels[rows]

        def report(_: str, done: int, total: int) -> None:
            if progress:
                progress(what, done, total)

        attacks.perturb_(
            *(network, made, wanted, torch.arange(len(rows)), attack),
            epsilon=epsilon,
            row_seeds=[seeds[row] for row in rows.tolist()],
            batch=batch,
            device=device,
            progress=report,
        )
        adversarial[rows] = made
        return rows[predict(two_pass, made, batch, device) == wanted]

    attacked, flat = len(left), 0
    for number in range(restarts):
        seeds = row_seeds("restart", number)
        if number == 0 and attacked:
            begun = _begun(images[left], [seeds[row] for row in left.tolist()], epsilon, attack)
            flat = flat_gradients(two_pass, begun, labels[left], batch, device)
        left = attempt(two_pass, left, seeds, f"attacking, start {number + 1} of {restarts}")
    withstood = len(left)
    for number, k in enumerate(two_pass.classes):
        network = OneMask(two_pass.classifier, two_pass.masks[k]).eval()
        what = f"attacking, mask {number + 1} of {len(two_pass.classes)}"
        left = attempt(network, left, row_seeds("mask", k), what)
    predictions = predict(two_pass, adversarial, batch, device)
    status[(status == OK) & (predictions == labels)] = FAILED
    found = Attacked(adversarial, clean, predictions, status)
    return Adaptive(found, attacked - withstood, withstood - len(left), flat)


def _begun(images: Tensor, seeds: list[int], epsilon: float, attack: Any) -> Tensor:
    """Where PGD begins on images (n, c, h, w), clipped as Foolbox does it."""
    if not attack.random_start:
        return images
    return (images + epsilon * attacks.starts(images.shape[1:], seeds)).clamp(0, 1)


def flat_gradients(classifier: nn.Module, images: Tensor, labels: Tensor, batch: int, device: torch.device) -> int:
    """How many images have a cross-entropy whose gradient is exactly 0 in every pixel. images (n, c, h, w), labels (n)."""

    def one_batch(rows: Tensor) -> int:
        some = padded(images[rows], batch).to(device).requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(classifier(some), padded(labels[rows], batch).to(device), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, some)
        return int((gradient[: len(rows)] == 0).flatten(1).all(dim=1).sum())

    with workers.pool(device) as pool:
        return sum(pool.map(one_batch, workers.batches(torch.arange(len(images)), batch)))
