"""Fit one frequency mask an image (paper, sections 3.1, 4.4 and A.3).

The authors fit one full-spectrum mask at a time with autograd. Here a batch of images advances together, each with an Adam
state of its own, and the basis gives the gradient with respect to a mask (in the Fourier basis on half the spectrum, entry by
entry what the full spectrum's loop computes). Each worker thread has a batch of its own; on a GPU a step is one CUDA graph.

A finished image leaves its slot to the next one, and the batch is padded. Where the classifier's gradient for an image depends
on that image alone (it does for ResNet-20 on a CPU), a mask is bitwise the same in any slot and beside any other images: an
interrupted fit continues from the state of its slots in any others, and images can be divided among processes. A few steps at the
start test whether this holds, and a warning says where it doesn't. Images need 501 to some 4,000 steps, so the last ones would
keep whole batches busy: they continue in a narrower batch, but only if those steps give the same bits there too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.fit_queue import Fit, Job, State
from fmtool.masks.objectives import objective
from fmtool.masks.optimisation import WINDOW, Adam, FitOptions, l1_norm, per_mask, settled
from fmtool.models import compiling
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal
from fmtool.runtime.progress import Progress

REPORT_EVERY = 0.2  # seconds between calls of `progress`
HALVINGS = 10  # of lambda at most, for an image whose mask loses its target
SMALLEST = 4  # slots of the narrowest batch
TRIAL_STEPS = 8  # that a narrower batch must take to the same bits
FRESH = {
    "masks": 1.0,
    "mean": 0.0,
    "square": 0.0,
    "steps": 0,
    "losses": torch.nan,
    "active": True,
}  # of a slot with a new image
OF_IMAGE = ("coefficients", "targets", "unfiltered")
FLAGS = ("active", "converged", "preserved", "keeps_target", "checked")  # of a slot
GPU_CHECK_EVERY = 16  # steps between looks at which slots have finished: a look makes the host wait for the GPU


@dataclass(frozen=True)
class FittedMasks:
    """masks (n, c, rows, columns) in [0, 1]; steps (n) int64; loss (n) of the last step; converged (n) bool: the stopping test
    was met; preserved (n) bool: the last forward pass, before the last update, gave the target (the authors' rule);
    preserved_stored (n) bool: one more pass with the mask as it is returned gives it; lambda_ (n) float64: the one of the last
    fit. All on the CPU.
    """

    masks: Tensor
    steps: Tensor
    loss: Tensor
    converged: Tensor
    preserved: Tensor
    preserved_stored: Tensor
    lambda_: Tensor


def fit_masks(
    classifier: nn.Module,
    images: Rows,
    targets: Tensor,
    options: FitOptions,
    device: torch.device | None = None,
    progress: Progress | None = None,
    starts: Callable[[int], Tensor] | None = None,
) -> FittedMasks:
    """One mask an image, all in memory; see `fit_each`."""
    n, c, h, w = images.shape
    fitted = FittedMasks(
        masks=torch.zeros(n, c, *basis_for(options.basis, h, w).shape, dtype=images.dtype),
        steps=torch.zeros(n, dtype=torch.int64),
        loss=torch.zeros(n, dtype=images.dtype),
        **{name: torch.zeros(n, dtype=torch.bool) for name in ("converged", "preserved", "preserved_stored")},
        lambda_=torch.zeros(n, dtype=torch.float64),
    )

    def store(row: int, fit: Fit) -> None:
        for one in fields(fit):
            getattr(fitted, one.name)[row] = getattr(fit, one.name)

    fit_each(classifier, images, targets, options, store, device, progress, starts)
    return fitted


def fit_each(
    classifier: nn.Module,
    images: Rows,
    targets: Tensor,
    options: FitOptions,
    store: Callable[[int, Fit], None],
    device: torch.device | None = None,
    progress: Progress | None = None,
    starts: Callable[[int], Tensor] | None = None,
    *,
    rows: Sequence[int] | None = None,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One mask an image; `store` gets (row, fit) of each as it is finished, from one thread at a time.

    images (n, c, h, w) float32 or float64; targets (n) int64, the class to keep. The classifier is frozen, in eval mode and
    on `device`. starts: a row's mask (c, rows, columns) before its first step, symmetric, asked for once by any worker; ones
    unless given. rows: those to fit, if not all. journal: has the rows that `store` was given before, and the states of those
    that were begun. MaskError when there is no image.
    """
    n = len(images)
    if n == 0:
        raise MaskError("no image is left to fit a mask to")
    device = device or torch.device("cpu")
    rows = range(n) if rows is None else rows
    done = set(journal.rows())
    job = Job(images, targets, [row for row in rows if row not in done], store, starts, journal)
    total = len(rows)
    journal.stop_at_once()  # the workers save their states below, whatever ends the run

    def work() -> None:
        _Slots(images.shape[1:], images.dtype, levels[0], device).run(job, share, levels[1:])

    with threads.pool(device) as pool:
        if job.left:
            levels = pool.submit(_levels, classifier, images, targets, options, device).result()
        count = threads.count(device) if job.left else 0
        share = -(-job.left // max(count, 1))  # few images are for all workers, not for the first
        jobs = [pool.submit(work) for _ in range(count)]
        try:
            while wait(jobs, timeout=REPORT_EVERY, return_when=FIRST_EXCEPTION).not_done:
                if any(one.done() and one.exception() for one in jobs):
                    break
                job.ask_to_save()
                if progress:
                    progress("fitting masks", total - job.left, total)
        finally:
            job.stop.set()  # after an error or Ctrl-C; else all have ended
        for one in jobs:
            one.result()
    if progress:
        progress("fitting masks", total, total)


class SlotState(NamedTuple):
    """What the slots of a batch hold of their images, each (b, ...). A step changes it in place.

    masks, mean, square, steps: as in `Adam`; coefficients: of the images, as the basis analyses them; targets int64;
    unfiltered (b, k): the images' logits, k = 0 where the objective doesn't compare them; losses (b, 20) float64: the last ones,
    NaN where there are fewer; lambda_ float64: each image's own. bool: active: advances; converged, preserved: as in
    `FittedMasks`; keeps_target: the last pass gave the target; checked: the slot had finished before the last pass, which
    therefore is the verdict on its final mask.
    """

    masks: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor
    coefficients: Tensor
    targets: Tensor
    unfiltered: Tensor
    losses: Tensor
    lambda_: Tensor
    active: Tensor
    converged: Tensor
    preserved: Tensor
    keeps_target: Tensor
    checked: Tensor

    def begun(self) -> dict[str, Tensor]:
        """The part of it that doesn't follow from image, target and network."""
        return {name: values for name, values in self._asdict().items() if name not in OF_IMAGE}


@dataclass(frozen=True)
class Level:
    """A batch's options, which differ in its size alone, one step of its slots' state, in place, and an image's own logits.

    unfiltered: an image (c, h, w) to logits (k), alone, so that no other image can change their rounding.
    """

    options: FitOptions
    advance: Callable[[SlotState], None]
    unfiltered: Callable[[Tensor], Tensor]


def _levels(
    classifier: nn.Module, images: Rows, targets: Tensor, options: FitOptions, device: torch.device
) -> list[Level]:
    """The whole batch and, on the CPU, half of it and so on, as long as the first images' first steps give the same bits."""

    def level(size: int) -> Level:
        sized = replace(options, batch=size)
        plain = _stepper(classifier, options, basis_for(options.basis, *images.shape[2:]), images.dtype, device)
        uncompiled = Level(sized, plain, unfiltered)
        if not options.compile_:
            return uncompiled
        state = filled(uncompiled).state
        compiled = compiling.compiled(lambda *state: plain(SlotState(*state)), *state, precision=options.precision)
        return uncompiled if compiled is None else replace(uncompiled, advance=lambda state: compiled(*state))

    def filled(level: Level, *, turned: bool = False) -> _Slots:
        """The first images in the first slots, or, turned, from the last slot on and beside others."""
        slots, batch = _Slots(images.shape[1:], images.dtype, level, device), level.options.batch
        for number in range(batch if turned else min(batch, known)):
            slots.start(batch - 1 - number if turned else number, (number % known, images[number % known], {}), targets)
        return slots

    def trial(level: Level, *, turned: bool = False) -> list[Tensor]:
        """What becomes of the first images in a few steps."""
        slots = filled(level, turned=turned)
        for _ in range(TRIAL_STEPS):
            slots.step()
        return [(values.flip(0) if turned else values)[:known] for values in slots.state]

    def same(some: list[Tensor], others: list[Tensor]) -> bool:
        # a window of losses that isn't full holds NaN
        return all(bool(((a == b) | (a != a) & (b != b)).all()) for a, b in zip(some, others, strict=True))

    unfiltered = _unfiltered(classifier, options, device)
    known = min(options.batch, SMALLEST, len(images))
    levels = [level(options.batch)]
    expected = trial(levels[0])
    if not same(trial(levels[0], turned=True), expected):
        warnings.warn(
            FmtoolWarning(
                "here an image's steps depend on its place in the batch: resumed and sharded runs may differ in bits"
            ),
            stacklevel=2,
        )
    while device.type == "cpu" and (size := levels[-1].options.batch // 2) >= SMALLEST:
        half = level(size)
        if not same(trial(half), expected):
            break
        levels.append(half)
    return levels


def _unfiltered(classifier: nn.Module, options: FitOptions, device: torch.device) -> Callable[[Tensor], Tensor]:
    """`Level.unfiltered`; none where the objective doesn't compare logits."""
    if not objective(options.objective).compares:
        return lambda image: image.new_zeros(0)
    passes = compiling.input_gradient(classifier, options.precision, device)

    def logits(image: Tensor) -> Tensor:
        _, of_image, _ = passes(image[None], torch.zeros(1, dtype=torch.int64, device=device))
        return of_image[0]

    return logits


def _stepper(
    classifier: nn.Module, options: FitOptions, basis: Basis, dtype: torch.dtype, device: torch.device
) -> Callable[[SlotState], None]:
    """A function that takes one Adam step of every active slot, in place.

    Finished ones keep mask, step count and the verdict of their last step.
    """
    fitted_for = objective(options.objective)
    passes = compiling.input_gradient(classifier, options.precision, device, fitted_for.loss)
    weights = basis.weights(dtype, device)

    def step(slots: SlotState) -> None:
        active, targets = slots.active, slots.targets
        slots.checked.copy_(~active)
        losses, logits, slope = passes(basis.synthesise(slots.masks, slots.coefficients), targets, slots.unfiltered)
        lambda_ = slots.lambda_ / (slots.masks.shape[1] * basis.entries if fitted_for.of_share else 1)
        losses = losses.double() + lambda_ * l1_norm(slots.masks, weights).double()
        slots.keeps_target.copy_(logits.argmax(1) == targets)
        slots.preserved.copy_(torch.where(active, slots.keeps_target, slots.preserved))
        gradient = basis.gradient(slope, slots.masks, slots.coefficients)
        gradient.addcmul_(slots.masks.sign(), per_mask(lambda_, gradient))
        Adam(slots.masks, slots.mean, slots.square, slots.steps).step(basis.symmetrise_(gradient), active)
        # the newest loss last: after a roll of the window, or left as it was in a slot that has finished
        rolled = torch.cat([slots.losses[:, 1:], losses[:, None]], dim=1)
        slots.losses.copy_(torch.where(active[:, None], rolled, slots.losses))
        slots.converged.copy_(torch.where(active, settled(slots.losses, options, slots.steps), slots.converged))
        active.copy_(active & ~slots.converged & (slots.steps <= options.max_steps))

    return step


class _Slots:
    """A worker's batch. Slots without an image compute idly.

    The state stays where it is in memory, and a step changes it in place: a CUDA graph replays the same addresses.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, level: Level, device: torch.device) -> None:
        self.options, self.advance, self.unfiltered = level.options, level.advance, level.unfiltered
        self.shape, self.device, b = shape, device, self.options.batch
        self.basis = basis_for(self.options.basis, *shape[1:])
        self.row = [-1] * b  # which image a slot works on; -1: none
        adam = Adam.fresh((b, shape[0], *self.basis.shape), dtype, device)
        coefficients = self.basis.analyse(torch.zeros(*shape, dtype=dtype)).dtype
        self.state = SlotState(
            **{field.name: getattr(adam, field.name) for field in fields(adam)},
            coefficients=torch.zeros(adam.masks.shape, dtype=coefficients, device=device),
            targets=torch.zeros(b, dtype=torch.int64, device=device),
            unfiltered=self.unfiltered(torch.zeros(*shape, dtype=dtype, device=device)).repeat(b, 1),
            losses=torch.full((b, WINDOW), torch.nan, dtype=torch.float64, device=device),
            lambda_=torch.full((b,), self.options.lambda_, dtype=torch.float64, device=device),
            **{name: torch.zeros(b, dtype=torch.bool, device=device) for name in FLAGS},
        )

    def step(self) -> None:
        """One step of every active slot."""
        self.advance(self.state)

    def run(self, job: Job, share: int, narrower: Sequence[Level]) -> None:
        """Fit what waits, `share` images at first, until nothing does and every slot has finished, or the job is stopped.

        What is left in fewer slots than a narrower batch has goes on there, once no image waits.
        """
        step, steps = (self.step, 1) if self.device.type == "cpu" else (_captured(self.step), GPU_CHECK_EVERY)
        saved = job.asked
        for slot in self.free()[:share]:
            self.start(slot, job.take(), job.targets)
        while busy := len(self.row) - len(self.free()):
            if job.stop.is_set():
                job.save(self.begun())
                return
            if saved != job.asked:
                saved = job.asked
                job.save(self.begun())
            wide_enough = sum(level.options.batch >= busy for level in narrower)
            if wide_enough:  # then no image waits for this worker, or it would be in a slot
                narrow = _Slots(self.shape, self.state.masks.dtype, narrower[wide_enough - 1], self.device)
                narrow.take_over(self)
                narrow.run(job, 0, narrower[wide_enough:])
                return
            for _ in range(steps):
                step()
            checked = self.state.checked.tolist()
            for slot in [slot for slot, row in enumerate(self.row) if row >= 0 and checked[slot]]:
                if self._fits_again(slot):
                    self._begin(slot, {"lambda_": self.state.lambda_[slot] / 2, **job.start_of(self.row[slot])})
                else:
                    self._store(slot, job.keep)
                    self.start(slot, job.take(), job.targets)

    def free(self) -> list[int]:
        return [slot for slot, row in enumerate(self.row) if row < 0]

    def begun(self) -> dict[int, State]:
        """What `start` needs to continue with the images that are in the slots, by row."""
        values = {name: values.cpu() for name, values in self.state.begun().items()}
        return {row: {name: one[slot] for name, one in values.items()} for slot, row in enumerate(self.row) if row >= 0}

    def take_over(self, other: _Slots) -> None:
        """Continue with what is in the busy slots of another batch, which are no more than there are here."""
        busy = [slot for slot, row in enumerate(other.row) if row >= 0]
        for mine, theirs in zip(self.state, other.state, strict=True):
            mine[: len(busy)] = theirs[busy]
        self.row[: len(busy)] = [other.row[slot] for slot in busy]

    def start(self, slot: int, taken: tuple[int, Tensor, State] | None, targets: Tensor) -> None:
        """A row's image in a slot; without one the slot is free."""
        if taken is None:
            self.row[slot] = -1
            return
        self.row[slot], image, begun = taken
        # analysed alone, so that no other image can change its rounding
        image = image.to(self.device)
        values = {
            "coefficients": self.basis.analyse(image),
            "targets": targets[self.row[slot]],
            "unfiltered": self.unfiltered(image),
        }
        self._begin(slot, {"lambda_": self.options.lambda_, **values, **begun})

    def _begin(self, slot: int, values: Mapping[str, Tensor | float]) -> None:
        """A first step is to follow, or with all of `SlotState.begun` among the values the next one."""
        for name, value in {**FRESH, **values}.items():
            getattr(self.state, name)[slot] = value

    def _fits_again(self, slot: int) -> bool:
        """Whether the finished mask has lost its target, and lambda may be halved once more."""
        halved = self.options.lambda_ / float(self.state.lambda_[slot]) if self.options.adapt_lambda else math.inf
        return halved < 2**HALVINGS and not bool(self.state.keeps_target[slot])

    def _store(self, slot: int, keep: Callable[[int, Fit], None]) -> None:
        state = self.state
        fit = Fit(
            masks=state.masks[slot].cpu(),
            steps=int(state.steps[slot]),
            loss=float(state.losses[slot, -1]),
            converged=bool(state.converged[slot]),
            preserved=bool(state.preserved[slot]),
            preserved_stored=bool(state.keeps_target[slot]),
            lambda_=float(state.lambda_[slot]),
        )
        keep(self.row[slot], fit)


def perturbed(basis: Basis, channels: int, perturb: float, seed: int) -> Tensor:
    """A start 1 - perturb * u: (channels, rows, columns) float32, u uniform in [0, 1].

    Equal entries of the mask share one draw, so that the mask is symmetric and every entry uniform.
    """
    u = torch.rand(channels, *basis.shape, generator=torch.Generator().manual_seed(seed))
    drawn = u.flatten(1)
    for places, equals in basis.orbits():
        drawn[:, equals] = drawn[:, places]
    return 1 - perturb * u


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph, a single launch; or as it is where something in it can't be captured."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(3):  # on idle slots: libraries set themselves up at their first calls
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(FmtoolWarning(f"no CUDA graph of the step, which runs as it is: {reason}"), stacklevel=2)
        torch.cuda.synchronize()
        return step
    replay: Callable[[], None] = graph.replay
    return replay
