"""Fit one frequency mask per class, plain or robust (paper, sections 4.7 and 4.8), with the steps of `optimisation`.

The authors hold all images of a class in one batch. Here all classes advance together, and a step's gradient is accumulated
over micro-batches divided among the workers, and added up in order, so that the sum does not depend on which finishes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.errors import MaskError
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.optimisation import (
    WINDOW,
    Adam,
    FitOptions,
    input_gradient,
    l1_norm,
    per_mask,
    settled,
)
from fmtool.models.classifier import padded
from fmtool.models.compiling import InputGradient
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors
from fmtool.runtime.progress import Progress

CLASS_TOLERANCE = 1e-3  # one mask per class; authors' code


@dataclass(frozen=True)
class ClassMasks:
    """masks (k, c, rows, columns) in [0, 1]; steps (k) int64; loss (k) of the last step, averaged over the parts that hold
    images of the class; converged (k) bool: the stopping test was met. On the CPU. A class without images has 0 steps.
    """

    masks: Tensor
    steps: Tensor
    loss: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Part:
    """Images whose class masks advance together: images (n, c, h, w), targets (n), owners (n): whose mask filters each."""

    images: Tensor
    targets: Tensor
    owners: Tensor


def fit_class_masks(
    classifier: nn.Module,
    parts: Sequence[Part],
    classes: int,
    options: FitOptions,
    device: torch.device | None = None,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
) -> ClassMasks:
    """One mask for all images of a class, section 4.7; with two parts section 4.8. All classes advance together.

    Each step takes one optimiser step per part, in order, on the class's mean cross-entropy in it plus the penalty, gradients
    accumulated over micro-batches of `options.batch`. The stopping test looks at the average of a class's losses over the
    parts; the images of a finished class are no longer used. journal: where to resume from. MaskError if there is no image at
    all.
    """
    device = device or torch.device("cpu")
    if not sum(len(part.images) for part in parts):
        raise MaskError("no image is left to fit a class mask to")
    first = parts[0].images
    c, h, w = first.shape[1:]
    transform = basis_for(options.basis, h, w)
    weights = transform.weights(first.dtype, device)
    works = [_ClassWork(part, classes, options, transform, device) for part in parts]
    held = torch.stack([work.counts > 0 for work in works])  # (parts, k)
    run = _Run.fresh((classes, c, *transform.shape), first.dtype, held.any(dim=0))
    run.restore(journal.load())
    adam = run.adam
    with threads.pool(device) as pool:
        passes = pool.submit(input_gradient, classifier, first.shape[1:], first.dtype, options, device).result()
        while bool(run.active.any()):
            summed = torch.zeros(classes, dtype=torch.float64, device=device)
            for work in works:
                loss, slope = work.gradient(adam.masks, run.active, passes, pool)
                slope += options.lambda_ * adam.masks.sign()
                penalised = loss + options.lambda_ * l1_norm(adam.masks, weights).double()
                summed += torch.where(work.counts > 0, penalised, 0)
                adam.step_some(transform.symmetrise_(slope), run.active & (work.counts > 0))
            run.count(summed / held.sum(dim=0), options)
            journal.save(run.tensors)
            if progress:
                progress("fitting class masks, steps", int(run.steps.max()), options.max_steps)
    loss = run.losses[:, -1].to(first.dtype)
    return ClassMasks(adam.masks.cpu(), run.steps.cpu(), loss.cpu(), run.converged.cpu())


@dataclass(frozen=True)
class _Run:
    """The state of the fit after a step. Tensors change in place.

    steps (k): how many steps each class has taken (`adam.steps` has one per part); losses (k, 20) float64, the last ones, NaN
    if there are fewer; active (k), converged (k) bool.
    """

    adam: Adam
    steps: Tensor
    losses: Tensor
    active: Tensor
    converged: Tensor

    @classmethod
    def fresh(cls, shape: tuple[int, int, int, int], dtype: torch.dtype, active: Tensor) -> _Run:
        adam = Adam.fresh(shape, dtype, active.device)
        losses = torch.full((shape[0], WINDOW), torch.nan, dtype=torch.float64, device=active.device)
        return cls(adam, torch.zeros_like(adam.steps), losses, active, torch.zeros_like(active))

    def count(self, loss: Tensor, options: FitOptions) -> None:
        """Record a step with each class's loss (k)."""
        self.steps.add_(self.active)
        rolled = torch.cat([self.losses[:, 1:], loss[:, None]], dim=1)
        self.losses.copy_(torch.where(self.active[:, None], rolled, self.losses))
        self.converged.copy_(torch.where(self.active, settled(self.losses, options, self.steps), self.converged))
        self.active.logical_and_(~self.converged & (self.steps <= options.max_steps))

    def tensors(self) -> Tensors:
        """The whole state, by name."""
        of_adam = {f"adam.{field.name}": getattr(self.adam, field.name) for field in fields(self.adam)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "adam"}
        return {**of_adam, **own}

    def restore(self, before: Tensors | None) -> None:
        """Continue from a state that `tensors` returned, if any."""
        if before is not None:
            for name, values in self.tensors().items():
                values.copy_(before[name])


class _ClassWork:
    """One part's coefficients on the device, and the classes' gradients over them."""

    def __init__(self, part: Part, classes: int, options: FitOptions, basis: Basis, device: torch.device) -> None:
        self.batch, self.basis = options.batch, basis
        self.coefficients = basis.analyse(part.images.to(device))
        self.targets, self.owners = part.targets.to(device), part.owners.to(device)
        self.counts = torch.bincount(self.owners, minlength=classes)  # (k) images each class has in this part

    def gradient(self, masks: Tensor, active: Tensor, passes: InputGradient, pool: Executor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (k) of each active class over its images, and its gradient (k, c, h, f) for the class's mask."""
        rows = active[self.owners].nonzero().flatten()
        slope, loss = torch.zeros_like(masks), torch.zeros(len(masks), dtype=torch.float64, device=masks.device)

        def micro_batch(some: Tensor) -> tuple[Tensor, Tensor]:
            owners, whole = self.owners[some], padded(some, self.batch)
            own, coefficients = masks[self.owners[whole]], self.coefficients[whole]
            losses, _, gradient = passes(self.basis.synthesise(own, coefficients), self.targets[whole])
            belongs = F.one_hot(owners, len(masks)).to(
                masks.dtype
            )  # a matrix product sums in a fixed order on any device
            each = self.basis.gradient(gradient, own, coefficients).flatten(1)[: len(some)]
            return belongs.T @ each, belongs.T.double() @ losses[: len(some)].double()

        for added, lost in pool.map(micro_batch, threads.batches(rows, self.batch)):
            slope += added.view_as(slope)
            loss += lost
        counts = self.counts.clamp_min(1)
        return loss / counts, slope / per_mask(counts, slope)
