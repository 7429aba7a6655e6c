"""A progress bar on a terminal, occasional lines elsewhere; both on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Use as a context manager; call with (label, done, total) as often as you like."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        # ask the stream itself: FORCE_COLOR makes rich assume a terminal
        terminal = sys.stderr.isatty()
        self.console = Console(stderr=True, force_terminal=None if terminal else False)
        self.progress = None
        if terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.progress = Progress(*columns, console=self.console, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.done: dict[str, int] = {}
        self.label: str | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress:
            self.progress.stop()

    def __call__(self, label: str, done: int, total: int) -> None:
        if self.progress:
            self.progress.start()  # at the first call, so that a short command draws nothing
            if label not in self.tasks:
                self.tasks[label] = self.progress.add_task(label, total=total)
            if label != self.label:  # it may have been shown before
                self.label = label
                for other, task in self.tasks.items():
                    self.progress.update(task, visible=other == label)
            if done < self.done.get(label, 0):
                self.progress.reset(self.tasks[label])  # the time left is that of this pass
            self.done[label] = done
            self.progress.update(self.tasks[label], completed=done, total=total)
        elif not self.quiet and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)
