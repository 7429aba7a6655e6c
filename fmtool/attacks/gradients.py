"""Gradients that lead an attack nowhere: images on which it fails may only seem robust."""

from __future__ import annotations

import threading
from functools import partial

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.models import compiling
from fmtool.models.classifier import filled
from fmtool.models.compiled_classifier import labelled
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal, each

_watched = threading.local()


def watch(batch: int, device: torch.device) -> Tensor:
    """(batch,) bool, which becomes true for the images of this thread's batch that meet a gradient that is not finite."""
    _watched.bad = torch.zeros(batch, dtype=torch.bool, device=device)
    return _watched.bad  # type: ignore[no-any-return]


def look_at(images: Tensor) -> None:
    """Watch the gradient with respect to what the classifier receives in this thread: the batch, or something else."""
    if images.requires_grad and len(images) == len(_watched.bad):
        images.register_hook(partial(_note_, _watched.bad))  # type: ignore[no-untyped-call]


def _note_(bad: Tensor, gradient: Tensor) -> None:
    bad |= (0 * gradient).flatten(1).sum(
        dim=1
    ) != 0  # NaN unless all are finite; in every step, and isfinite takes longer


def flat_gradients(
    classifier: nn.Module,
    images: Rows,
    labels: Tensor,
    batch: int,
    device: torch.device,
    journal: Journal = NO_JOURNAL,
) -> int:
    """How many images have a cross-entropy whose gradient leads nowhere: exactly 0 in every pixel, or not finite in one.
    images (n, c, h, w), labels (n).
    """

    passes = compiling.input_gradient(classifier, device=device)

    def one_batch(start: int) -> Tensor:
        rows = slice(start, start + batch)
        some, targets = (filled(classifier, one[rows], batch).to(device) for one in (images, labels))
        with labelled(targets):
            _, _, gradient = passes(some, targets)
        flat = (gradient == 0).flatten(1).all(dim=1) | ~gradient.isfinite().flatten(1).all(dim=1)
        return flat[: len(images) - start].sum().cpu()

    with threads.pool(device) as pool:
        counts = each(journal, "flat", range(0, len(images), batch), lambda starts: pool.map(one_batch, starts))
        return sum(int(count) for count in counts)
