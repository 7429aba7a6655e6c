"""Ctrl-C, SIGTERM and SIGHUP, held back for a moment, so that work that is saved stops between two steps, not within one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST = 5.0  # seconds that a signal is held back: Slurm kills 30 s after it


class Interrupts:
    """puts_off: hold signals back until the work calls `obey`, where its state is whole; else they stop it at once."""

    def __init__(self) -> None:
        self.puts_off = False
        self.pending: int | None = None
        self.deaf = False  # while what was interrupted is saved
        self.before: dict[int, Any] = {}
        self.timer: threading.Timer | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Handle the signals that have a handler already; those that nohup ignores stay ignored. Only in the main thread."""
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.before = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in self.before:
            signal.signal(number, self._come)
        try:
            yield
        finally:
            self._forget()
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def obey(self) -> None:
        """Do what the signal held back asks for; nothing in any thread but the main one."""
        if self.pending is not None and threading.current_thread() is threading.main_thread():
            number = self.pending
            self._forget()
            self.before[number](number, None)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self.deaf:
            return
        if self.puts_off and self.pending is None:
            self.pending = number
            self.timer = threading.Timer(LONGEST, os.kill, (os.getpid(), number))
            self.timer.daemon = True
            self.timer.start()
            return
        self._forget()
        self.before[number](number, frame)

    def _forget(self) -> None:
        """The next signal is obeyed at once."""
        self.pending, self.puts_off = None, False
        if self.timer is not None:
            self.timer.cancel()
