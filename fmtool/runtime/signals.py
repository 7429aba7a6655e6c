"""Delay Ctrl-C, SIGTERM and SIGHUP briefly, so that resumable work stops between two steps, not within one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
LONGEST = 5.0  # seconds that a signal is held back; Slurm sends SIGKILL 30 s after SIGTERM


class Interrupts:
    """puts_off: hold signals back until the work calls `obey`, when its state is consistent; otherwise obey them immediately."""

    def __init__(self) -> None:
        self.puts_off = False
        self.pending: int | None = None
        self.deaf = False  # while interrupted work is being saved
        self.before: dict[int, Any] = {}
        self.timer: threading.Timer | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Handle the signals that already have a handler; those that nohup ignores stay ignored. Only in the main thread.

        A signal that is still held back when the block ends is obeyed then, unless an error ended the block.
        """
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.before = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in self.before:
            signal.signal(number, self._come)
        try:
            yield
        except BaseException:
            self._forget()
            raise
        finally:
            for number, handler in self.before.items():
                signal.signal(number, handler)
        self.obey()

    def obey(self) -> None:
        """Act on the signal held back; does nothing outside the main thread."""
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
        """Forget the pending signal; the next one is obeyed immediately."""
        self.pending, self.puts_off = None, False
        if self.timer is not None:
            self.timer.cancel()
