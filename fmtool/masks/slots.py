"""The slots of a batch: what each holds of its image, and how images come and go (see `fitting`)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from fmtool.errors import first_line, warn
from fmtool.masks.basis import basis_for
from fmtool.masks.fit_queue import Fit, Job, State
from fmtool.masks.optimisation import JUDGE_EVERY, WINDOW, Adam, FitOptions

GPU_CHECK_EVERY = 16  # steps between checks for finished slots, as a check makes the host wait for the GPU
FRESH = {
    "masks": 1.0,
    "mean": 0.0,
    "square": 0.0,
    "steps": 0,
    "losses": torch.nan,
    "active": True,
    "converged": False,
}  # of a slot with a new image
OF_IMAGE = ("coefficients", "targets", "unfiltered")
FLAGS = ("active", "converged", "preserved", "keeps_target", "checked")  # of a slot
HALVINGS = 10  # of lambda at most, for an image whose mask loses its target


class SlotState(NamedTuple):
    """The state of a batch's slots, each (b, ...). A step changes it in place.

    masks, mean, square, steps: as in `Adam`; coefficients: of the images, as the basis analyses them; targets int64;
    unfiltered (b, k): the images' logits, k = 0 if the objective doesn't compare them; losses (b, 20) float64: the last ones,
    NaN if there are fewer; lambda_ float64: each image's own. bool: active: advances; converged, preserved: as in
    `FittedMasks`; keeps_target: the last pass gave the target; checked: the slot had finished before the last pass, which
    therefore tested its final mask.
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
        """The part of the state that doesn't follow from image, target and network."""
        return {name: values for name, values in self._asdict().items() if name not in OF_IMAGE}


@dataclass(frozen=True)
class Level:
    """A batch's options, which differ only in its size, a function that advances its slots one step in place, and two more.

    unfiltered: an image (c, h, w) to logits (k), alone, so that no other image can change their rounding. judge: decides in
    place which slots stop, after every `JUDGE_EVERY` steps; None if each step decides.
    """

    options: FitOptions
    advance: Callable[[SlotState], None]
    unfiltered: Callable[[Tensor], Tensor]
    judge: Callable[[SlotState], None] | None = None


class Levels:
    """The full batch of a fit, and the narrower ones in which its last images continue, each made when it is first needed.

    sizes: of the narrower ones. make: a size to its level, or None if its steps would give other bits: it is then left out.
    wait: while another worker makes a level, rather than go on in a wider one.
    """

    def __init__(
        self, first: Level, sizes: Iterable[int], make: Callable[[int], Level | None], *, wait: bool = False
    ) -> None:
        self.first, self.sizes, self.make, self.wait = first, sorted(sizes), make, wait
        self.made: dict[int, Level | None] = {}
        self.lock = threading.Lock()  # of the making

    def narrower(self, busy: int, width: int, before: Callable[[], None]) -> Level | None:
        """The narrowest level with `busy` slots or more, if it has fewer than `width`; while another worker makes one, of those
        made already. before: called before one is made, which may take long.
        """
        for size in self.sizes:
            if not busy <= size < width:
                continue
            if size not in self.made and self.lock.acquire(blocking=self.wait):
                try:
                    if size not in self.made:
                        before()
                        self.made[size] = self.make(size)
                finally:
                    self.lock.release()
            level = self.made.get(size)
            if level is not None:
                return level
        return None


class Slots:
    """A worker's batch. Slots without an image compute idly.

    The state keeps its place in memory, and a step changes it in place: a CUDA graph replays the same addresses.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, level: Level, device: torch.device) -> None:
        self.level, self.options, self.unfiltered = level, level.options, level.unfiltered
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
        self.level.advance(self.state)

    def judge(self) -> None:
        """Decide which slots stop, where steps don't."""
        if self.level.judge is not None:
            self.level.judge(self.state)

    def run(self, job: Job, share: int, levels: Levels) -> Slots | None:
        """Fit waiting images, `share` of them at first, until none is left and every slot has finished, or the job is stopped.

        Once no image waits, and a narrower level has slots enough for what is left, returns that level's batch, which continues.
        """
        here = self.device.type == "cpu"
        step = self.step if here else _captured(self.step)
        # images start after a judgement, so that each is judged at the same numbers of its own steps in any slot
        steps = JUDGE_EVERY if self.options.judged else 1 if here else GPU_CHECK_EVERY
        saved = job.asked
        for slot in self.free()[:share]:
            self.start(slot, job.take(), job.targets)
        while busy := len(self.row) - len(self.free()):
            if job.stop.is_set():
                job.save(self.begun())
                return None
            if saved != job.asked:
                saved = job.asked
                job.save(self.begun())
            narrower = levels.narrower(busy, len(self.row), lambda: job.save(self.begun()))
            if narrower:  # then no image waits for this worker, or it would be in a slot
                narrow = Slots(self.shape, self.state.masks.dtype, narrower, self.device)
                narrow.take_over(self)
                return narrow
            for _ in range(steps):
                step()
            self.judge()
            checked = self.state.checked.tolist()
            for slot in [slot for slot, row in enumerate(self.row) if row >= 0 and checked[slot]]:
                if self._fits_again(slot):
                    self._begin(slot, {"lambda_": self.state.lambda_[slot] / 2, **job.start_of(self.row[slot])})
                else:
                    self._store(slot, job.keep)
                    self.start(slot, job.take(), job.targets)
        return None

    def free(self) -> list[int]:
        return [slot for slot, row in enumerate(self.row) if row < 0]

    def begun(self) -> dict[int, State]:
        """What `start` needs to continue with the images in the slots, by row."""
        values = {name: values.cpu() for name, values in self.state.begun().items()}
        return {row: {name: one[slot] for name, one in values.items()} for slot, row in enumerate(self.row) if row >= 0}

    def take_over(self, other: Slots) -> None:
        """Continue with the busy slots of another batch, which fit into this one."""
        busy = [slot for slot, row in enumerate(other.row) if row >= 0]
        for mine, theirs in zip(self.state, other.state, strict=True):
            mine[: len(busy)] = theirs[busy]
        self.row[: len(busy)] = [other.row[slot] for slot in busy]

    def start(self, slot: int, taken: tuple[int, Tensor, State] | None, targets: Tensor) -> None:
        """Put a row's image into a slot; without one, free the slot."""
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
        """Prepare for a first step, or for the next one if the values include all of `SlotState.begun`."""
        for name, value in {**FRESH, **values}.items():
            getattr(self.state, name)[slot] = value

    def _fits_again(self, slot: int) -> bool:
        """Whether the finished mask has lost its target, by either rule of `Fit`, and lambda may be halved once more."""
        halved = self.options.lambda_ / float(self.state.lambda_[slot]) if self.options.adapt_lambda else math.inf
        return halved < 2**HALVINGS and not bool(self.state.keeps_target[slot] & self.state.preserved[slot])

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


def fit_waiting(
    job: Job, share: int, levels: Levels, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    """Fit a job's waiting images, (c, h, w) each, in the full batch, and the last images in ever narrower ones.

    A wider batch is let go of before the next one takes a step, as there may be hundreds of them.
    """
    slots: Slots | None = Slots(shape, dtype, levels.first, device)
    while slots is not None:
        slots, share = slots.run(job, share, levels), 0


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph, a single launch; or unchanged if something in it can't be captured."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(3):  # on idle slots: libraries initialise on their first calls
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        warn(f"the step runs without a CUDA graph: {first_line(error)}")
        torch.cuda.synchronize()
        return step
    replay: Callable[[], None] = graph.replay
    return replay
