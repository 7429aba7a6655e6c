"""What a resume file holds, seen from outside while a command writes it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path


def holds_work(side: Path) -> bool:
    """Whether a row or a state is committed; False also while the file is locked, or waits to be rolled back."""
    try:
        with contextlib.closing(sqlite3.connect(f"{side.as_uri()}?mode=ro", uri=True, timeout=0)) as database:
            return bool(database.execute("select 1 from rows union all select 1 from states limit 1").fetchall())
    except sqlite3.Error:  # no file, no table yet, or busy
        return False


def wait_for_work(side: Path, alive: Callable[[], bool]) -> None:
    """Until the file holds work, or the command that writes it has ended."""
    deadline = time.monotonic() + 120
    while alive() and not holds_work(side):
        assert time.monotonic() < deadline
        time.sleep(0.01)
