"""The slots of a batch, with a step that only counts: who is where, what is saved, and when lambda is halved."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from fmtool.masks.fit_queue import Fit, Job
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.slots import HALVINGS, Level, Levels, Slots, SlotState, fit_waiting
from fmtool.runtime.journal import NO_JOURNAL, Journal

CPU, SHAPE = torch.device("cpu"), (1, 4, 4)
IMAGES = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(6)


def counting(
    keeps: Callable[[SlotState], Tensor] = lambda state: torch.ones_like(state.checked),
) -> Callable[[SlotState], None]:
    """A step after which a slot has finished once it has counted to its target plus 2."""

    def advance(state: SlotState) -> None:
        state.steps.add_(1)
        state.losses[:, -1] = state.steps
        state.checked.copy_(state.steps >= state.targets + 2)
        state.keeps_target.copy_(keeps(state))
        state.preserved.copy_(state.keeps_target)

    return advance


def level(batch: int, advance: Callable[[SlotState], None] | None = None, **more: bool) -> Level:
    return Level(FitOptions(0.5, batch, 0, 9, **more), advance or counting(), lambda image: image.sum().view(1))


def job(rows: Sequence[int], stored: dict[int, Fit], journal: Journal = NO_JOURNAL) -> Job:
    return Job(IMAGES, TARGETS, rows, stored.__setitem__, None, journal)


def alone() -> Levels:
    """No narrower batch."""
    return Levels(level(1), (), level)


def test_every_image_is_fitted_whatever_the_number_of_slots() -> None:
    """Each in as many steps as it takes, however long the others take."""
    for batch in (1, 2, 8):
        stored: dict[int, Fit] = {}
        slots = Slots(SHAPE, torch.float32, level(batch), CPU)
        slots.run(job([4, 0, 5, 2], stored), batch, alone())
        assert {row: fit.steps for row, fit in stored.items()} == {4: 6, 0: 2, 5: 7, 2: 4}
        assert all(fit.loss == fit.steps and fit.lambda_ == 0.5 for fit in stored.values())
        assert slots.free() == list(range(batch))


def test_a_slot_holds_its_image_alone() -> None:
    slots, waiting = Slots(SHAPE, torch.float32, level(2), CPU), job([3], {})
    slots.start(1, waiting.take(), TARGETS)
    assert slots.row == [-1, 3] and slots.free() == [0]
    assert torch.equal(slots.state.coefficients[1], torch.fft.rfft2(IMAGES[3])) and int(slots.state.targets[1]) == 3
    assert float(slots.state.unfiltered[1]) == pytest.approx(float(IMAGES[3].sum()))
    assert bool((slots.state.masks[1] == 1).all()) and bool(slots.state.losses[1].isnan().all())
    slots.start(1, None, TARGETS)
    assert slots.row == [-1, -1]


def test_what_is_saved_is_all_that_does_not_follow_from_the_image() -> None:
    slots, waiting = Slots(SHAPE, torch.float32, level(3), CPU), job([3], {})
    slots.start(2, waiting.take(), TARGETS)
    for _ in range(2):
        slots.step()
    (row, state), *others = slots.begun().items()
    assert row == 3 and not others
    assert set(state) == set(SlotState._fields) - {"coefficients", "targets", "unfiltered"}
    again = Slots(SHAPE, torch.float32, level(1), CPU)
    again.start(0, (3, IMAGES[3], state), TARGETS)
    for name in SlotState._fields:
        mine, theirs = getattr(again.state, name)[0], getattr(slots.state, name)[2]
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num()), name


def test_the_last_images_move_to_a_batch_that_is_wide_enough() -> None:
    """Their steps go on: a narrower batch begins with the state of the wider one."""
    widths: list[int] = []

    def watching(state: SlotState) -> None:
        widths.append(len(state.steps))
        counting()(state)

    stored: dict[int, Fit] = {}
    levels = Levels(level(4, watching), (2, 1), lambda batch: level(batch, watching))
    fit_waiting(job([0, 1, 4, 5], stored), 4, levels, SHAPE, torch.float32, CPU)
    assert {row: fit.steps for row, fit in stored.items()} == {0: 2, 1: 3, 4: 6, 5: 7}
    assert widths == [4, 4, 4, 2, 2, 2, 1]
    widths.clear()
    three = Job(IMAGES, torch.tensor([0, 0, 0, 5]), range(4), stored.__setitem__, None, NO_JOURNAL)
    fit_waiting(three, 4, levels, SHAPE, torch.float32, CPU)
    assert widths == [4, 4, 1, 1, 1, 1, 1]  # the narrowest that is wide enough


def test_a_narrower_batch_is_made_once_when_it_is_needed_and_by_one_worker() -> None:
    made: list[int] = []
    saved: list[int] = []

    def before() -> None:
        saved.append(len(made))

    def make(batch: int) -> Level | None:
        made.append(batch)
        # as another worker would ask, which goes on in its own batch, or in one that is there
        assert levels.narrower(1, 16, before) is levels.made.get(4)
        return None if batch == 2 else level(batch)

    levels = Levels(level(16), (8, 4, 2), make)
    assert levels.narrower(9, 16, before) is None and levels.narrower(2, 2, before) is None and not made
    narrower = levels.narrower(2, 16, before)  # 2 would give other bits
    assert narrower is not None and narrower.options.batch == 4 and levels.narrower(1, 8, before) is narrower
    assert levels.narrower(5, 16, before) is not narrower and made == [2, 4, 8] and saved == [0, 1, 2]


def test_a_worker_whose_batch_has_no_idle_slots_waits_for_a_narrower_one() -> None:
    """In a wider one, slots without an image would change the logits of the others."""
    making = threading.Event()

    def make(batch: int) -> Level:
        making.set()
        time.sleep(0.2)
        return level(batch)

    levels = Levels(level(4), (2,), make, wait=True)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(levels.narrower, 2, 4, int)
        assert making.wait(10)
        assert levels.narrower(2, 4, int) is first.result() is not None


def test_what_is_begun_is_saved_before_a_narrower_batch_is_made() -> None:
    """Which may take longer than a cluster waits between its two signals."""
    kept: list[list[int]] = []

    class Saves(Journal):
        def save_rows(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
            kept.append(sorted(states))

    def make(batch: int) -> Level:
        assert kept == [[2, 3]]
        return level(batch)

    images = Job(IMAGES, torch.tensor([0, 0, 4, 5]), range(4), lambda *_: None, None, Saves())
    fit_waiting(images, 4, Levels(level(4), (2,), make), SHAPE, torch.float32, CPU)
    assert len(kept) == 1


def test_a_wider_batch_is_let_go_of_before_a_narrower_one_runs() -> None:
    """Else networks that allow no idle slots would keep a batch of every size."""
    alive: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
    widths: list[list[int]] = []

    def watching(state: SlotState) -> None:
        alive[id(state.mean)] = state.mean  # not its masks, of which the stored fits are views
        widths.append([len(mean) for mean in alive.values()])
        counting()(state)

    stored: dict[int, Fit] = {}
    levels = Levels(level(4, watching), (3, 2, 1), lambda batch: level(batch, watching))
    fit_waiting(job([0, 1, 3, 5], stored), 4, levels, SHAPE, torch.float32, CPU)
    assert widths == [[4], [4], [3], [2], [2], [1], [1]] and len(stored) == 4


def test_a_job_that_is_stopped_saves_what_it_has_begun() -> None:
    saved: dict[int, object] = {}

    class Saves(Journal):
        def save_rows(self, states: object) -> None:
            saved.update(states)  # type: ignore[call-overload]

    def stopping(state: SlotState) -> None:
        counting()(state)
        waiting.stop.set()

    stored: dict[int, Fit] = {}
    waiting = job([0, 3, 5], stored, Saves())
    Slots(SHAPE, torch.float32, level(2, stopping), CPU).run(waiting, 2, alone())
    assert set(saved) == {0, 3} and not stored


def test_lambda_is_halved_until_the_target_is_kept_by_both_rules() -> None:
    """Pairs are chosen by `preserved`: a mask that keeps it as stored alone would be left out."""
    step = counting()

    def advance(state: SlotState) -> None:
        step(state)
        state.preserved.copy_(state.lambda_ < 0.3)

    stored: dict[int, Fit] = {}
    Slots(SHAPE, torch.float32, level(1, advance, adapt_lambda=True), CPU).run(job([1], stored), 1, alone())
    assert (stored[1].lambda_, stored[1].preserved, stored[1].preserved_stored) == (0.25, True, True)


def test_lambda_is_halved_until_the_target_is_kept() -> None:
    """Of an image that keeps it from 0.1 on, and of one that never does; without the option each is fitted once."""
    advance = counting(lambda state: (state.targets == 1) & (state.lambda_ < 0.1))
    for adapt, expected in ((True, {1: 0.0625, 2: 0.5 / 2**HALVINGS}), (False, {1: 0.5, 2: 0.5})):
        stored: dict[int, Fit] = {}
        Slots(SHAPE, torch.float32, level(2, advance, adapt_lambda=adapt), CPU).run(job([1, 2], stored), 2, alone())
        assert {row: fit.lambda_ for row, fit in stored.items()} == expected
        assert [stored[row].preserved_stored for row in (1, 2)] == [adapt, False]
        assert [stored[row].steps for row in (1, 2)] == [3, 4]  # of the last fit
