"""Computations that are killed and go on: what they keep lies in memory here, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fmtool.runtime.journal import Kept, Tensors
from fmtool.runtime.resume_file import pack, unpack

Result = TypeVar("Result")


class Killed(BaseException):
    """Stands for SIGKILL."""


class Dying:
    """Keeps every state, and dies right after some of them, counted from 0 over all lives."""

    def __init__(self, deaths: Iterable[int]) -> None:
        self.deaths, self.saves = set(deaths), 0
        self.state: bytes | None = None
        self.parts: dict[str, bytes] = {}

    def load(self) -> Tensors | None:
        return None if self.state is None else unpack(self.state)

    def save(self, make: Callable[[], Tensors]) -> None:
        self.state = pack(make())
        self.saves += 1
        if self.saves - 1 in self.deaths:
            raise Killed

    def part(self, name: str) -> Tensors | None:
        return unpack(self.parts[name]) if name in self.parts else None

    def finish(self, name: str, part: Tensors) -> None:
        self.finish_all({name: part})

    def finish_all(self, parts: Mapping[str, Tensors]) -> None:
        for name, part in parts.items():
            assert name not in self.parts
            self.parts[name] = pack(part)


def through(run: Callable[[Kept], Result], deaths: Iterable[int]) -> Result:
    """What a run gives that is killed so often, and started again each time."""
    kept = Dying(deaths)
    for _ in range(len(kept.deaths)):
        try:
            run(kept)
        except Killed:
            continue
        raise AssertionError(f"ended after {kept.saves} states, before it was killed for the last time")
    return run(kept)
