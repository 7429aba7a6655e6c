"""Fit one frequency mask per image (paper, sections 3.1, 4.4 and A.3).

The authors fit one full-spectrum mask at a time with autograd. Here a batch of images advances together, each with an Adam
state of its own, and the basis gives the gradient with respect to a mask (in the Fourier basis on half the spectrum, entry by
entry what the full spectrum's loop computes). Each worker thread has a batch of its own; on a GPU a step is one CUDA graph.

A finished image leaves its slot to the next one, and the batch is padded. Where the classifier's gradient for an image depends
on that image alone (it does for ResNet-20 on a CPU), a mask is bitwise the same in any slot and beside any other images: an
interrupted fit continues from the state of its slots in any others, and images can be divided among processes. A few steps at the
start test whether this holds, and a warning says if it doesn't. Images need 501 to some 5,000 steps, so the last ones would
keep whole batches busy: they continue in ever narrower batches, but only if those steps give the same bits there too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.errors import MaskError, warn
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.fit_queue import Fit, Job
from fmtool.masks.objectives import Objective, objective
from fmtool.masks.optimisation import Adam, FitOptions, l1_norm, per_mask, settled, unimproved
from fmtool.masks.slots import Level, Levels, Slots, SlotState, fit_waiting
from fmtool.models import compiling
from fmtool.models.classifier import classes_of, is_padded
from fmtool.runtime import threads
from fmtool.runtime.failures import out_of_memory
from fmtool.runtime.journal import NO_JOURNAL, Journal

REPORT_EVERY = 0.2  # seconds between calls of `progress`
# slots of the batches in which the last images continue; where each is compiled for itself, few
NARROWER = {
    "uncompiled": (128, 64, 32, 16, 8, 4),
    "compiled": (32, 16, 8, 4),
    "compiled for any number": (128, 64, 32, 24, 16, 12, 8, 6, 4),
}
COMPILES_BESIDE = "2.14"  # the first version of torch in which a thread may compile while another runs compiled code
LARGEST_UNPADDED = 256  # slots, for networks that allow no idle ones: there is a batch of every size below
TRIAL_IMAGES, TRIAL_STEPS = 4, 8  # that a narrower batch must take to the same bits


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
    """One mask per image, all in memory; see `fit_each`."""
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
    agree: Callable[[bool], None] | None = None,
) -> bool:
    """One mask per image; `store` receives (row, fit) of each when it is finished, from one thread at a time. Returns whether
    the network ran compiled, which it doesn't where that fails.

    images (n, c, h, w) float32 or float64; targets (n) int64, the class to keep. The classifier is frozen, in eval mode and
    on `device`. starts: a row's initial mask (c, rows, columns), symmetric, requested once by any worker; ones by
    default. rows: those to fit, if not all. journal: holds the rows that `store` received earlier, and the states of
    unfinished ones. agree: called with whether the network runs compiled, before the first step. MaskError if there is no image.
    """
    n = len(images)
    if n == 0:
        raise MaskError("no image is left to fit a mask to")
    device = device or torch.device("cpu")
    options = replace(options, compile_=compiling.as_begun(options.compile_, journal))
    rows = range(n) if rows is None else rows
    done = set(journal.rows())
    job = Job(images, targets, [row for row in rows if row not in done], store, starts, journal)
    total = len(rows)
    journal.stop_at_once()  # the workers save their states below, however the fit ends

    def work() -> None:
        fit_waiting(job, share, levels, images.shape[1:], images.dtype, device)

    with threads.pool(device) as pool:
        if job.left:
            levels = pool.submit(_levels, classifier, images, targets, options, device).result()
            compiling.record_form(levels.first.options.compile_, options.compile_, journal)
            options = levels.first.options
        if agree and total:
            agree(options.compile_)
        count = threads.count(device) if job.left else 0
        share = -(-job.left // max(count, 1))  # so that few images are divided among all workers
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
    return options.compile_


def _levels(classifier: nn.Module, images: Rows, targets: Tensor, options: FitOptions, device: torch.device) -> Levels:
    """The full batch and, on the CPU, those narrower ones in which the first images' first steps are bitwise the same. For a
    network whose logits depend on the batch, one for every size.
    """
    whole: Callable[..., None] | None = None  # the step of the full batch, compiled

    def level(size: int) -> Level:
        nonlocal whole
        sized = replace(options, batch=size)
        step = _stepper(classifier, options, basis, images.dtype, device)

        def advance(state: SlotState, step: Callable[..., None]) -> None:
            # its inverse transform can't be called from a library (see `native_code`)
            step(basis.synthesise(state.masks, state.coefficients), *state)

        uncompiled = Level(replace(sized, compile_=False), partial(advance, step=step), unfiltered, judge)
        if not options.compile_:
            return uncompiled
        state = filled(uncompiled, turned=True).state
        # without a narrower batch the network goes on compiled
        compiled = compiling.compiled(
            step,
            basis.synthesise(state.masks, state.coefficients),
            *state,
            network=classifier,
            precision=options.precision,
            warn=size == options.batch,
            any_number=whole is None,
            wider=whole,
        )
        whole = whole or compiled
        return replace(uncompiled, options=sized, advance=partial(advance, step=compiled)) if compiled else uncompiled

    def filled(level: Level, *, turned: bool = False) -> Slots:
        """The first images in the first slots, or, if turned, in the last slots, beside other images."""
        slots, batch = Slots(images.shape[1:], images.dtype, level, device), level.options.batch
        for number in range(batch if turned else min(batch, len(known))):
            slots.start(batch - 1 - number if turned else number, (*known[number % len(known)], {}), wrong)
        slots.state.unfiltered.zero_()
        return slots

    def trial(level: Level, *, turned: bool = False) -> list[Tensor]:
        """The state of the first images after a few steps; if turned, of all slots, the last one first."""
        slots = filled(level, turned=turned)
        for _ in range(TRIAL_STEPS):
            slots.step()
        slots.judge()
        # copies, as a part would keep the whole batch in memory
        return [values.flip(0) if turned else values[: len(known)].clone() for values in slots.state]

    def same(some: list[Tensor], others: list[Tensor]) -> bool:
        # slots hold the first images again and again; a window of losses that isn't full holds NaN
        pairs = [(a, b[torch.arange(len(a)) % len(b)]) for a, b in zip(some, others, strict=True)]
        return all(bool(((a == b) | (a != a) & (b != b)).all()) for a, b in pairs)

    def narrower(size: int) -> Level | None:
        try:
            made = level(size)
            # one that couldn't be compiled would round otherwise some day
            fits = made.options.compile_ == options.compile_ and same(trial(made, turned=True), expected)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return None  # the wider batch, which fitted, goes on
        return made if fits else None

    unfiltered = _unfiltered(classifier, options, device)
    basis = basis_for(options.basis, *images.shape[2:])
    judge = _judge(classifier, options, basis, images.dtype, device) if options.judged else None
    # read now: workers read under the job's lock
    known = [(row, images[row]) for row in range(min(options.batch, TRIAL_IMAGES, len(images)))]
    # a network that is sure of the target has a gradient near 0, which hides its rounding; so has a mask of ones for an objective
    # that compares with the unfiltered image's logits, for which `filled` puts zeros
    with torch.no_grad():
        classes = classifier(torch.stack([image for _, image in known]).to(device)).shape[1]
    wrong = (targets + 1) % classes
    if not is_padded(classifier):  # each batch holds the unfinished images and no other: no idle slots
        largest = min(options.batch, LARGEST_UNPADDED)
        return Levels(level(largest), range(1, largest), level, wait=True)
    first = level(options.batch)
    options = replace(options, compile_=first.options.compile_)
    expected = trial(first)
    if not same(trial(first, turned=True), expected):
        warn("here an image's steps depend on its position in the batch: resumed and sharded runs may differ bitwise")
    any_number = compiling.takes_any_number(whole)
    form = "compiled for any number" if any_number else "compiled" if options.compile_ else "uncompiled"
    stops = form == "compiled" and torch.__version__ < COMPILES_BESIDE
    narrow = NARROWER[form] if device.type == "cpu" and not stops else ()
    return Levels(first, [size for size in narrow if size < options.batch], narrower)


def _unfiltered(classifier: nn.Module, options: FitOptions, device: torch.device) -> Callable[[Tensor], Tensor]:
    """`Level.unfiltered`; none where the objective doesn't compare logits."""
    if not objective(options.objective).compares:
        return lambda image: image.new_zeros(0)
    # the judge compares them with those of its float32 pass
    passes = compiling.input_gradient(classifier, "float32" if options.judged else options.precision, device)

    def logits(image: Tensor) -> Tensor:
        _, of_image, _ = passes(image[None], torch.zeros(1, dtype=torch.int64, device=device))
        return of_image[0]

    return logits


def _stepper(
    classifier: nn.Module, options: FitOptions, basis: Basis, dtype: torch.dtype, device: torch.device
) -> Callable[..., None]:
    """A function that takes one Adam step of every active slot, in place: of the slots' filtered images (b, c, h, w) and their
    state, one tensor after the other.

    Finished slots keep their mask, step count and the results of their last step. A slot whose loss or gradient isn't finite
    finishes with the mask that it has, as it would lose it in that step and never find another.
    """
    fitted_for = objective(options.objective)
    passes = compiling.input_gradient(classifier, options.precision, device, fitted_for.losses)
    weights = basis.weights(dtype, device)

    def step(filtered: Tensor, *state: Tensor) -> None:
        slots = SlotState(*state)
        active, targets = slots.active, slots.targets
        slots.checked.copy_(~active)
        losses, logits, slope = passes(filtered, targets, slots.unfiltered)
        lambda_ = _of_an_entry(slots, basis, fitted_for)
        losses = losses.double() + lambda_ * l1_norm(slots.masks, weights).double()
        slots.keeps_target.copy_(classes_of(logits) == targets)
        slots.preserved.copy_(torch.where(active, slots.keeps_target, slots.preserved))
        gradient = basis.gradient(slope, slots.masks, slots.coefficients)
        gradient.addcmul_(slots.masks.sign(), per_mask(lambda_, gradient))
        gradient = basis.symmetrise_(gradient)
        moves = active & losses.isfinite() & gradient.flatten(1).isfinite().all(dim=1)
        Adam(slots.masks, slots.mean, slots.square, slots.steps).step(gradient, moves)
        if not options.judged:
            # the newest loss is last; the window of a finished slot doesn't change
            slots.losses.copy_(torch.where(active[:, None], _rolled(slots.losses, losses), slots.losses))
            slots.converged.copy_(torch.where(active, settled(slots.losses, options, slots.steps), slots.converged))
        active.copy_(moves & ~slots.converged & (slots.steps <= options.max_steps))

    return step


def _judge(
    classifier: nn.Module, options: FitOptions, basis: Basis, dtype: torch.dtype, device: torch.device
) -> Callable[[SlotState], None]:
    """A function that decides by a forward pass in float32 which slots stop, and whether their masks keep their targets.

    Every slot with an image has advanced since the last time, and those that have stopped are emptied next.
    """
    fitted_for = objective(options.objective)
    weights = basis.weights(dtype, device)

    @torch.no_grad()
    def judge(slots: SlotState) -> None:
        logits = classifier(basis.synthesise(slots.masks, slots.coefficients))
        losses = fitted_for.losses(logits, slots.targets, slots.unfiltered).double()
        losses += _of_an_entry(slots, basis, fitted_for) * l1_norm(slots.masks, weights).double()
        slots.losses.copy_(_rolled(slots.losses, losses))
        slots.keeps_target.copy_(classes_of(logits) == slots.targets)
        slots.converged.copy_(slots.active & unimproved(slots.losses, options, slots.steps))
        slots.active.copy_(slots.active & ~slots.converged)
        slots.checked.copy_(~slots.active)

    return judge


def _of_an_entry(slots: SlotState, basis: Basis, fitted_for: Objective) -> Tensor:
    """(b) float64: what an entry of 1 costs."""
    return slots.lambda_ / (slots.masks.shape[1] * basis.entries if fitted_for.of_share else 1)


def _rolled(losses: Tensor, newest: Tensor) -> Tensor:
    """The window (b, 20) without its oldest loss, and the newest one last."""
    return torch.cat([losses[:, 1:], newest[:, None]], dim=1)


def perturbed(basis: Basis, channels: int, perturb: float, seed: int) -> Tensor:
    """A start 1 - perturb * u: (channels, rows, columns) float32, u uniform in [0, 1].

    Equal entries of the mask share one draw, so that the mask is symmetric and every entry uniform.
    """
    u = torch.rand(channels, *basis.shape, generator=torch.Generator().manual_seed(seed))
    drawn = u.flatten(1)
    for places, equals in basis.orbits():
        drawn[:, equals] = drawn[:, places]
    return 1 - perturb * u
