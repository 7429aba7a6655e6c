"""Computations that are killed and go on: here, with a journal in memory, or as a command in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import pytest

from fmtool.runtime import resume_file
from fmtool.runtime.journal import Journal, Tensors, pack, unpack

Result = TypeVar("Result")


class Killed(BaseException):
    """Stands for SIGKILL."""


class Dying(Journal):
    """Records every state, and dies right after some of them, counted from 0 over all lives."""

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

    def finish_all(self, parts: Mapping[str, Tensors], *, again: bool = False) -> None:
        for name, part in parts.items():
            assert name not in self.parts
            self.parts[name] = pack(part)


def through(run: Callable[[Journal], Result], deaths: Iterable[int]) -> Result:
    """What a run gives that is killed so often, and started again each time."""
    journal = Dying(deaths)
    for _ in range(len(journal.deaths)):
        try:
            run(journal)
        except Killed:
            continue
        raise AssertionError(f"ended after {journal.saves} states, before it was killed for the last time")
    return run(journal)


def live(line: list[str], log: str) -> None:
    """The command line in this process, which saves often and writes its messages to a file.

    It lies here since a new process has the helpers on its path, and not the test files.
    """
    from fmtool.__main__ import main

    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    resume_file.SECONDS_BETWEEN = 0.05
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fmtool", *line])
        main()
