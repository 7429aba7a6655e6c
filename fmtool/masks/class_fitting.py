"""Fit one frequency mask per class, plain or robust (paper, sections 4.7 and 4.8), with the steps of `optimisation`.

The authors hold all images of a class in one batch. Here all classes advance together, and a step's gradients are computed in
micro-batches divided among the workers. On a CPU each class adds up those of its images in their order, one by one and in
float64. So its mask depends neither on the worker that finishes first nor on the other classes, which may be another
process's, and a step can be left after any micro-batch and continued.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.errors import ArtifactError, MaskError
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.optimisation import (
    WINDOW,
    Adam,
    FitOptions,
    l1_norm,
    passes_for_batches,
    per_mask,
    settled,
)
from fmtool.models import compiling
from fmtool.models.classifier import filled
from fmtool.models.compiling import InputGradient
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors

CLASS_TOLERANCE = 1e-3  # one mask per class; authors' code
HELD = 2**28  # bytes of coefficients that are held in memory
GPU_SHARE = 4  # on a GPU, one part in this of its memory
COEFFICIENT_BYTES = 8  # a complex number in float32
AHEAD = 4  # micro-batches a worker may be ahead of their sum


@dataclass(frozen=True)
class ClassMasks:
    """masks (k, c, rows, columns) in [0, 1]; steps (k) int64; loss (k) of the last step, averaged over the parts that hold
    images of the class; converged (k) bool: the stopping test was met. On the CPU. A class without images has 0 steps.
    compiled: whether the network ran compiled, which it doesn't where that fails.
    """

    masks: Tensor
    steps: Tensor
    loss: Tensor
    converged: Tensor
    compiled: bool

    def tensors(self) -> Tensors:
        """The columns, by name."""
        return {name: values for name, values in vars(self).items() if name != "compiled"}


@dataclass(frozen=True)
class Part:
    """Images whose class masks advance together: images (n, c, h, w), targets (n), owners (n): whose mask filters each.

    If the images' coefficients don't fit into `HELD` bytes, they are computed in each step from images that are read anew.
    """

    images: Rows
    targets: Tensor
    owners: Tensor


# Over 60 lines, a third of them signature and docstring.
def fit_class_masks(
    classifier: nn.Module,
    parts: Sequence[Part],
    classes: Sequence[int],
    options: FitOptions,
    device: torch.device | None = None,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
    agree: Callable[[bool], None] | None = None,
) -> ClassMasks:
    """A mask for all images of each of the `classes` (k), section 4.7; with two parts section 4.8. All classes advance together.

    Each step takes one optimiser step per part, in order, on the class's mean cross-entropy in it plus the penalty, gradients
    accumulated over micro-batches of `options.batch`. The stopping test looks at the average of a class's losses over the
    parts; the images of a finished class are no longer used. classes: whose masks are fitted, on the CPU with the same bits
    whatever others there are; a row of the result for each. journal: where to resume from, also with another
    `max_steps`. MaskError if there is no image at all.
    """
    options = replace(options, compile_=compiling.as_begun(options.compile_, journal))
    device = device or torch.device("cpu")
    if not sum(len(part.images) for part in parts):
        raise MaskError("no image is left to fit a class mask to")
    first = parts[0].images
    c, h, w = first.shape[1:]
    transform = basis_for(options.basis, h, w)
    weights = transform.weights(first.dtype, device)
    works = _works(classifier, parts, classes, options, transform, device)
    held = torch.stack([work.counts > 0 for work in works])  # (parts, k)
    run = _Run.fresh((len(classes), c, *transform.shape), first.dtype, held.any(dim=0))
    images = [len(work.rows) for work in works]
    run.restore(journal.load(), options.max_steps)
    adam = run.adam
    ahead = AHEAD * threads.count(device)
    with threads.pool(device) as pool, threads.single(device):
        prepared = pool.submit(passes_for_batches, classifier, first.shape[1:], first.dtype, options, device)
        passes, compiled = prepared.result()
        compiling.record_form(compiled, options.compile_, journal)
        if agree:
            agree(compiled)
        while bool(run.active.any()):
            step = int(run.steps.max())
            while int(run.part) < len(works):
                number, work = int(run.part), works[int(run.part)]
                for batch in work.batches(adam.masks, run.active, int(run.done), passes, pool, ahead):
                    run.add(*batch)
                    journal.save(run.tensors)
                    if progress:
                        done = step * sum(images) + sum(images[:number]) + int(run.done)
                        progress("fitting class masks, image-steps", done, sum(images) * (options.max_steps + 1))
                counts = work.counts.clamp_min(1)
                slope = (run.slope / per_mask(counts, run.slope)).to(first.dtype)
                slope += options.lambda_ * adam.masks.sign()
                penalised = run.loss / counts + options.lambda_ * l1_norm(adam.masks, weights).double()
                adam.step_some(transform.symmetrise_(slope), run.active & (work.counts > 0))
                run.finish_part(torch.where(work.counts > 0, penalised, 0))
            run.finish_step(held.sum(dim=0), options)
            journal.save(run.tensors)
    loss = run.losses[:, -1].to(first.dtype)
    return ClassMasks(adam.masks.cpu(), run.steps.cpu(), loss.cpu(), run.converged.cpu(), compiled)


@dataclass(frozen=True)
class _Run:
    """The state of the fit after a micro-batch. Tensors change in place.

    steps (k): how many steps each class has taken (`adam.steps` has one per part); losses (k, 20) float64, the last ones, NaN
    if there are fewer; active (k), converged (k) bool. Of the step that is being taken: summed (k) float64, the losses of the
    finished parts; part (), the one that is being passed through; done (), how many of its images have been; slope
    (k, c, rows, columns), loss (k) float64: the sums over these.
    """

    adam: Adam
    steps: Tensor
    losses: Tensor
    active: Tensor
    converged: Tensor
    summed: Tensor
    part: Tensor
    done: Tensor
    slope: Tensor
    loss: Tensor

    @classmethod
    def fresh(cls, shape: tuple[int, int, int, int], dtype: torch.dtype, active: Tensor) -> _Run:
        adam = Adam.fresh(shape, dtype, active.device)
        slope = torch.zeros(shape, dtype=torch.float64, device=active.device)
        loss = torch.zeros_like(adam.steps, dtype=torch.float64)
        return cls(
            adam,
            torch.zeros_like(adam.steps),
            torch.full((shape[0], WINDOW), torch.nan, dtype=torch.float64, device=active.device),
            active,
            torch.zeros_like(active),
            summed=loss.clone(),
            part=torch.zeros((), dtype=torch.int64),
            done=torch.zeros((), dtype=torch.int64),
            slope=slope,
            loss=loss,
        )

    def add(self, owners: Tensor, losses: Tensor, slopes: Tensor) -> None:
        """Add the losses (m) and gradients (m, c, rows, columns) of images to their classes' sums."""
        slopes, losses = slopes.double(), losses.double()
        if self.slope.device.type == "cpu":  # in the images' order
            self.slope.index_add_(0, owners, slopes)
            self.loss.index_add_(0, owners, losses)
        else:  # where that order isn't fixed: a matrix product's is
            belongs = F.one_hot(owners, len(self.slope)).double().T
            self.slope.add_((belongs @ slopes.flatten(1)).view_as(self.slope))
            self.loss.add_(belongs @ losses)
        self.done.add_(len(owners))

    def finish_part(self, loss: Tensor) -> None:
        """Record each class's loss (k) in a part."""
        self.summed.add_(loss)
        self.part.add_(1)
        for sums in (self.done, self.slope, self.loss):
            sums.zero_()

    def finish_step(self, parts: Tensor, options: FitOptions) -> None:
        """Record a step. parts (k): how many hold images of each class."""
        self.steps.add_(self.active)
        rolled = torch.cat([self.losses[:, 1:], (self.summed / parts)[:, None]], dim=1)
        self.losses.copy_(torch.where(self.active[:, None], rolled, self.losses))
        self.converged.copy_(torch.where(self.active, settled(self.losses, options, self.steps), self.converged))
        # a loss that isn't finite stays so
        self.active.logical_and_(~self.converged & (self.steps <= options.max_steps) & self.summed.isfinite())
        for sums in (self.part, self.summed):
            sums.zero_()

    def tensors(self) -> Tensors:
        """The whole state, by name."""
        of_adam = {f"adam.{field.name}": getattr(self.adam, field.name) for field in fields(self.adam)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "adam"}
        return {**of_adam, **own}

    def restore(self, before: Tensors | None, max_steps: int) -> None:
        """Continue from a state that `tensors` returned, if any, of a fit with this limit or another. ArtifactError, which keeps
        that state, if a mask is beyond the limit.
        """
        if before is None:
            return
        for name, values in self.tensors().items():
            values.copy_(before[name])
        begun = int(self.steps.max()) + bool(self.active.any())  # the step that is being taken counts
        if begun > max_steps + 1:
            raise ArtifactError(
                f"--max-steps {max_steps}: {begun} steps have been begun: expected {begun - 1} or more, or --restart"
            )
        unfinished = (self.steps > 0) & (self.steps <= max_steps) & ~self.converged
        self.active.logical_or_(unfinished & self.losses[:, -1].isfinite())


def _works(
    classifier: nn.Module,
    parts: Sequence[Part],
    classes: Sequence[int],
    options: FitOptions,
    basis: Basis,
    device: torch.device,
) -> list[_ClassWork]:
    """The parts, with their coefficients on the device if those of all parts together fit."""
    works = [_ClassWork(classifier, part, classes, options, basis, device) for part in parts]
    size = sum(len(work.rows) * work.images.shape[1] for work in works) * math.prod(basis.shape) * COEFFICIENT_BYTES
    most = HELD if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory // GPU_SHARE
    if size <= most:
        for work in works:
            work.hold()
    return works


class _ClassWork:
    """One part's images of the classes, and their gradients.

    rows (n): which of the part's images; owners (n): places among the classes; counts (k): images each class has in this part.
    """

    def __init__(
        self,
        classifier: nn.Module,
        part: Part,
        classes: Sequence[int],
        options: FitOptions,
        basis: Basis,
        device: torch.device,
    ) -> None:
        self.classifier = classifier
        self.images, self.batch, self.basis, self.device = part.images, options.batch, basis, device
        place = torch.full((1 + max([*classes, *part.owners.tolist()]),), -1)
        place[list(classes)] = torch.arange(len(classes))
        owners = place[part.owners]
        self.rows = (owners >= 0).nonzero().flatten()
        self.targets, self.owners = part.targets[self.rows].to(device), owners[self.rows].to(device)
        self.counts = torch.bincount(self.owners, minlength=len(classes))
        self.held: Tensor | None = None

    def hold(self) -> None:
        """Compute all coefficients now."""
        if len(self.rows):
            every = torch.arange(len(self.rows))
            self.held = torch.cat([self._computed(some)[: len(some)] for some in torch.split(every, self.batch)])

    def _computed(self, some: Tensor) -> Tensor:
        """The coefficients of these images, `filled` to a whole batch."""
        images = self.images[self.rows[some.cpu()]]
        return self.basis.analyse(filled(self.classifier, images, self.batch).to(self.device))

    def batches(
        self, masks: Tensor, active: Tensor, done: int, passes: InputGradient, pool: Executor, ahead: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Owners (m), cross-entropies (m) and gradients (m, c, rows, columns) for their owners' masks of the active classes'
        images, in order, without the first `done` of them.
        """
        left = active[self.owners].nonzero().flatten()[done:]

        def micro_batch(some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            whole = filled(self.classifier, some, self.batch)
            own, coefficients = (
                masks[self.owners[whole]],
                self._computed(some) if self.held is None else self.held[whole],
            )
            losses, _, gradient = passes(self.basis.synthesise(own, coefficients), self.targets[whole])
            slopes = self.basis.gradient(gradient, own, coefficients)
            return self.owners[some], losses[: len(some)], slopes[: len(some)]

        yield from threads.in_order(pool, micro_batch, threads.batches(left, self.batch), ahead)
