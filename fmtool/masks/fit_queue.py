"""What the workers of a mask fit share: the waiting images, and the journal of finished and unfinished ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fmtool.artifacts.format import Rows
from fmtool.runtime.journal import Journal

State = Mapping[str, Tensor]  # the state of an image in a slot of `fitting`, or part of it


@dataclass(frozen=True)
class Fit:
    """One image's mask (c, rows, columns) in [0, 1], on the CPU; the other fields are those of `FittedMasks`."""

    masks: Tensor
    steps: int
    loss: float
    converged: bool
    preserved: bool
    preserved_stored: bool
    lambda_: float


class Job:
    """The workers' shared queue: the waiting rows, and the results and states of the others.

    asked: how often the workers were asked to save. left: number of unfinished rows.
    """

    def __init__(
        self,
        images: Rows,
        targets: Tensor,
        rows: Sequence[int],
        store: Callable[[int, Fit], None],
        starts: Callable[[int], Tensor] | None,
        journal: Journal,
    ) -> None:
        self.images, self.targets, self.store, self.starts, self.journal = images, targets, store, starts, journal
        self.waiting, self.left, self.asked = iter(rows), len(rows), 0
        self.lock, self.stop = threading.Lock(), threading.Event()

    def take(self) -> tuple[int, Tensor, State] | None:
        """The next row, its image, and the initial state of its slot; None if no row is waiting."""
        with self.lock:
            row = next(self.waiting, None)
            if row is None:
                return None
            image, begun = self.images[row], self.journal.row_state(row)
        return row, image, begun or self.start_of(row)

    def start_of(self, row: int) -> State:
        """The initial state of a row's slot, if its mask doesn't start at ones."""
        return {"masks": self.starts(row)} if self.starts else {}

    def keep(self, row: int, fit: Fit) -> None:
        with self.lock:
            self.store(row, fit)
            self.left -= 1

    def save(self, states: Mapping[int, State]) -> None:
        with self.lock:
            self.journal.save_rows(states)

    def ask_to_save(self) -> None:
        with self.lock:
            self.asked += self.journal.due()
