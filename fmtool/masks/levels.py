"""Make the batches in which a fit advances: their step, compiled or not, and a trial whether narrower ones give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.errors import warn
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.objectives import Objective, objective
from fmtool.masks.optimisation import Adam, FitOptions, l1_norm, per_mask, settled, unimproved
from fmtool.masks.slots import Level, Levels, Slots, SlotState
from fmtool.models import compiling
from fmtool.models.classifier import classes_of, is_padded
from fmtool.runtime.failures import out_of_memory

# slots of the batches in which the last images continue; where each is compiled for itself, few
NARROWER = {
    "uncompiled": (128, 64, 32, 16, 8, 4),
    "compiled": (32, 16, 8, 4),
    "compiled for any number": (128, 64, 32, 24, 16, 12, 8, 6, 4),
}
COMPILES_BESIDE = "2.14"  # the first version of torch in which a thread may compile while another runs compiled code
LARGEST_UNPADDED = 256  # slots, for networks that allow no idle ones: there is a batch of every size below
TRIAL_IMAGES, TRIAL_STEPS = 4, 8  # that a narrower batch must take to the same bits


def make_levels(
    classifier: nn.Module, images: Rows, targets: Tensor, options: FitOptions, device: torch.device
) -> Levels:
    """The full batch and, on the CPU, those narrower ones in which the first images' first steps are bitwise the same. For a
    network whose logits depend on the batch, one for every size.
    """
    padded = is_padded(classifier)
    options = options if padded else replace(options, batch=min(options.batch, LARGEST_UNPADDED))
    making = _Making(classifier, images, targets, options, device)
    first = making.first()
    if not padded:  # each batch holds the unfinished images and no other: no idle slots
        return Levels(first, range(1, options.batch), making.level, wait=True)
    making.expect(first)
    any_number = compiling.takes_any_number(making.compiled)
    form = "compiled for any number" if any_number else "compiled" if making.options.compile_ else "uncompiled"
    stops = form == "compiled" and torch.__version__ < COMPILES_BESIDE
    narrow = NARROWER[form] if device.type == "cpu" and not stops else ()
    return Levels(first, [size for size in narrow if size < options.batch], making.narrower)


class _Making:
    """Makes the levels of one fit.

    options: of the full batch, compiled only if that could be. compiled: its step, if so. known: the first images, which are
    tried, and their row numbers. wrong: targets that are not the images' own.
    """

    def __init__(
        self, classifier: nn.Module, images: Rows, targets: Tensor, options: FitOptions, device: torch.device
    ) -> None:
        self.classifier, self.options, self.device = classifier, options, device
        self.shape, self.dtype = images.shape[1:], images.dtype
        self.basis = basis_for(options.basis, *self.shape[1:])
        self.unfiltered = unfiltered(classifier, options, device)
        self.judge = _judge(classifier, options, self.basis, self.dtype, device) if options.judged else None
        # read now: workers read under the job's lock
        self.known = [(row, images[row]) for row in range(min(options.batch, TRIAL_IMAGES, len(images)))]
        # a network that is sure of the target has a gradient near 0, which hides its rounding; so has a mask of ones for an
        # objective that compares with the unfiltered image's logits, for which `filled` puts zeros
        with torch.no_grad():
            classes = classifier(torch.stack([image for _, image in self.known]).to(device)).shape[1]
        self.wrong = (targets + 1) % classes
        self.compiled: Callable[..., None] | None = None
        self.expected: list[Tensor] = []

    def first(self) -> Level:
        """The full batch."""
        made = self.level(self.options.batch)
        self.options = replace(self.options, compile_=made.options.compile_)
        return made

    def level(self, size: int) -> Level:
        """A batch of so many slots."""
        sized = replace(self.options, batch=size)
        step = _stepper(self.classifier, sized, self.basis, self.dtype, self.device)
        uncompiled = self._level(replace(sized, compile_=False), step)
        if not sized.compile_:
            return uncompiled
        state = self.filled(uncompiled, turned=True).state
        # without a narrower batch the network goes on compiled
        compiled = compiling.compiled(
            step,
            self.basis.synthesise(state.masks, state.coefficients),
            *state,
            network=self.classifier,
            precision=sized.precision,
            warn=size == self.options.batch,
            any_number=self.compiled is None,
            wider=self.compiled,
        )
        self.compiled = self.compiled or compiled
        return self._level(sized, compiled) if compiled else uncompiled

    def _level(self, options: FitOptions, step: Callable[..., None]) -> Level:
        def advance(state: SlotState) -> None:
            # its inverse transform can't be called from a library (see `native_code`)
            step(self.basis.synthesise(state.masks, state.coefficients), *state)

        return Level(options, advance, self.unfiltered, self.judge)

    def filled(self, level: Level, *, turned: bool = False) -> Slots:
        """The first images in the first slots, or, if turned, in the last slots, beside other images."""
        slots, batch = Slots(self.shape, self.dtype, level, self.device), level.options.batch
        for number in range(batch if turned else min(batch, len(self.known))):
            image = self.known[number % len(self.known)]
            slots.start(batch - 1 - number if turned else number, (*image, {}), self.wrong)
        slots.state.unfiltered.zero_()
        return slots

    def trial(self, level: Level, *, turned: bool = False) -> list[Tensor]:
        """The state of the first images after a few steps; if turned, of all slots, the last one first."""
        slots = self.filled(level, turned=turned)
        for _ in range(TRIAL_STEPS):
            slots.step()
        slots.judge()
        # copies, as a part would keep the whole batch in memory
        return [values.flip(0) if turned else values[: len(self.known)].clone() for values in slots.state]

    def expect(self, first: Level) -> None:
        """Try the full batch, for narrower ones to be compared with; warn if its slots are not all alike."""
        self.expected = self.trial(first)
        if not self.as_expected(first):
            warn(
                "here an image's steps depend on its position in the batch: resumed and sharded runs may differ bitwise"
            )

    def as_expected(self, level: Level) -> bool:
        """Whether each slot of a level takes the first images to the same bits as the full batch."""
        # slots hold the first images again and again; a window of losses that isn't full holds NaN
        pairs = [
            (a, b[torch.arange(len(a)) % len(b)])
            for a, b in zip(self.trial(level, turned=True), self.expected, strict=True)
        ]
        return all(bool(((a == b) | (a != a) & (b != b)).all()) for a, b in pairs)

    def narrower(self, size: int) -> Level | None:
        """A batch of so many slots; None if it gives other bits, or memory doesn't suffice."""
        try:
            made = self.level(size)
            # one that couldn't be compiled would round otherwise some day
            fits = made.options.compile_ == self.options.compile_ and self.as_expected(made)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return None  # the wider batch, which fitted, goes on
        return made if fits else None


def unfiltered(classifier: nn.Module, options: FitOptions, device: torch.device) -> Callable[[Tensor], Tensor]:
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
