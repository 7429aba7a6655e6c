"""The queue that workers share: rows in order, each with its image and state, and what they hand back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fmtool.masks.fit_queue import Fit, Job
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors

IMAGES = torch.arange(8.0).view(4, 1, 1, 2)
TARGETS = torch.tensor([3, 1, 2, 0])


class Remembers(Journal):
    """The states of rows, in memory."""

    def __init__(self, states: dict[int, Tensors]) -> None:
        self.states = states

    def row_state(self, number: int) -> Tensors | None:
        return self.states.get(number)

    def save_rows(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        self.states.update({row: dict(state) for row, state in states.items()})

    def due(self) -> bool:
        return True


def a_fit(steps: int) -> Fit:
    return Fit(torch.ones(1, 1, 2), steps, 0.5, converged=True, preserved=True, preserved_stored=False, lambda_=0.1)


def test_rows_are_taken_in_order_until_none_is_left() -> None:
    job = Job(IMAGES, TARGETS, [2, 0], lambda *_: None, None, NO_JOURNAL)
    taken = [job.take(), job.take()]
    assert [one and (one[0], one[1].tolist(), one[2]) for one in taken] == [(2, [[[4, 5]]], {}), (0, [[[0, 1]]], {})]
    assert job.take() is None and job.left == 2


def test_finished_rows_are_stored_and_counted() -> None:
    stored: dict[int, Fit] = {}
    job = Job(IMAGES, TARGETS, [2, 0], stored.__setitem__, None, NO_JOURNAL)
    job.keep(2, a_fit(7))
    assert job.left == 1 and stored[2].steps == 7


def test_a_saved_state_comes_before_the_start_of_a_fresh_row() -> None:
    """What was begun goes on from its own masks, whatever the starts."""
    saved = {"masks": torch.zeros(1, 1, 2), "steps": torch.tensor(5)}
    job = Job(
        IMAGES, TARGETS, [1, 3], lambda *_: None, lambda row: torch.full((1, 1, 2), row / 10), Remembers({1: saved})
    )
    first, second = job.take(), job.take()
    assert first is not None and first[2] is saved
    assert (
        second is not None
        and set(second[2]) == {"masks"}
        and second[2]["masks"].unique().tolist() == [torch.tensor(0.3).item()]
    )


def test_workers_are_asked_to_save_when_it_is_time() -> None:
    journal = Remembers({})
    job = Job(IMAGES, TARGETS, [0], lambda *_: None, None, journal)
    job.ask_to_save()
    assert job.asked == 1
    job.save({0: {"steps": torch.tensor(9)}})
    assert journal.states[0]["steps"] == 9
    idle = Job(IMAGES, TARGETS, [0], lambda *_: None, None, NO_JOURNAL)
    idle.ask_to_save()
    assert idle.asked == 0
