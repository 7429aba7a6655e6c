"""Locks of files: one process has it, and a system without them says so. `test_other_systems.py` runs whole commands without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fmtool.artifacts.locks import NO_LOCKS, lock


def test_only_one_has_the_lock(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w") as one, open(tmp_path / "x") as other:
        lock(one)
        with pytest.raises(BlockingIOError):
            lock(other)
    with open(tmp_path / "x") as other:
        lock(other)


def test_a_system_without_locks_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with open(tmp_path / "x", "w") as file, pytest.raises(OSError, match="no locks") as caught:
        lock(file)
    assert caught.value.errno in NO_LOCKS
