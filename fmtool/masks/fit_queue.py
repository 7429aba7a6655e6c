"""What the workers of a mask fit share: the images that wait, and what is kept of those that are finished or begun."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fmtool.artifacts.format import Rows

State = Mapping[str, Tensor]  # what a slot of `fitting` holds of an image, or some of it


@dataclass(frozen=True)
class Fit:
    """One image's mask (c, rows, columns) in [0, 1], on the CPU; the other fields are those of `FittedMasks`."""

    masks: Tensor
    steps: int
    loss: float
    converged: bool
    preserved: bool
    preserved_stored: bool


@dataclass(frozen=True)
class Resume:
    """How a run goes on from one that was interrupted, and can be interrupted itself; no two threads call at a time.

    done: rows that `store` has had already. begun: the state that was saved of a row last, None if none. due: whether it is
    time to `save` the states of the rows that are being fitted, by row; they are saved too when the run is interrupted.
    """

    done: Collection[int]
    begun: Callable[[int], State | None]
    due: Callable[[], bool]
    save: Callable[[Mapping[int, State]], None]


NO_RESUME = Resume((), lambda row: None, lambda: False, lambda states: None)


class Job:
    """What the workers of a run share: the rows that wait, and what becomes of those that are finished or begun.

    asked: how often their states were asked for. left: rows that are not finished.
    """

    def __init__(
        self,
        images: Rows,
        targets: Tensor,
        rows: Sequence[int],
        store: Callable[[int, Fit], None],
        starts: Callable[[int], Tensor] | None,
        resume: Resume,
    ) -> None:
        self.images, self.targets, self.store, self.starts, self.resume = images, targets, store, starts, resume
        self.waiting, self.left, self.asked = iter(rows), len(rows), 0
        self.lock, self.stop = threading.Lock(), threading.Event()

    def take(self) -> tuple[int, Tensor, State] | None:
        """The next row, its image, and what its slot holds at first; None where no row waits."""
        with self.lock:
            row = next(self.waiting, None)
            if row is None:
                return None
            image, begun = self.images[row], self.resume.begun(row)
        return row, image, begun or ({"masks": self.starts(row)} if self.starts else {})

    def keep(self, row: int, fit: Fit) -> None:
        with self.lock:
            self.store(row, fit)
            self.left -= 1

    def save(self, states: Mapping[int, State]) -> None:
        with self.lock:
            self.resume.save(states)

    def ask_to_save(self) -> None:
        with self.lock:
            self.asked += self.resume.due()
