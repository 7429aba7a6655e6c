"""The lock beside a resume file, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from fmtool.errors import ArtifactError, FmtoolWarning
from fmtool.runtime import resume_file
from fmtool.runtime.lock_file import can_lock, in_use, locked


def test_one_command_has_the_lock_and_removes_it(tmp_path: Path) -> None:
    path = tmp_path / ".x.resume"
    with locked(path, "x") as locks:
        assert locks and in_use(path) and os.listdir(tmp_path) == [".x.resume.lock"]
        with pytest.raises(ArtifactError, match=r"^x: another command is writing it$"), locked(path, "x"):
            pass
        assert in_use(path)
    assert os.listdir(tmp_path) == [] and not in_use(path)


def test_the_lock_of_a_killed_command_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".x.resume"
    (tmp_path / ".x.resume.lock").touch()
    assert not in_use(path)
    with locked(path, "x") as locks:
        assert locks


def test_where_there_are_no_locks_work_is_resumed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks fail there too: it must not ask for them."""
    opened, connect = [], sqlite3.connect

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def connected(path: str, **options: object) -> sqlite3.Connection:
        opened.append(path)
        return connect(path, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(sqlite3, "connect", connected)
    target = str(tmp_path / "x?%20")
    for begun in ([], [3]):
        told = pytest.warns(FmtoolWarning, match="files can't be locked here")
        with told, pytest.raises(KeyError), resume_file.resuming(target, {}) as journal:
            assert journal.rows() == begun
            journal.finish_row(3, {})
            raise KeyError
    assert os.listdir(tmp_path) == [".x?%20.resume"] and not can_lock(tmp_path / ".x?%20.resume")
    assert resume_file.holds_work(target)
    assert len(opened) == 3 and all(path.endswith("?nolock=1") for path in opened)


def test_resume_files_of_other_targets_and_those_in_use_stay(tmp_path: Path) -> None:
    """examples/cluster names shards OUTPUT.3-of-8; a further process of another job may be at work."""
    with pytest.raises(KeyError), resume_file.resuming(str(tmp_path / "x.3-of-8"), {}) as journal:
        journal.finish_row(0, {})
        raise KeyError
    with resume_file.resuming(str(tmp_path / "x"), {}, rank=(1, 3)) as journal:
        with resume_file.resuming(str(tmp_path / "x"), {}):
            assert ".x.resume.1-of-3" in sorted(os.listdir(tmp_path))
        journal.finish_row(1, {})
    assert sorted(os.listdir(tmp_path)) == [".x.3-of-8.resume"]


def test_a_link_in_place_of_the_resume_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    (tmp_path / ".x.resume").symlink_to("notes")
    told = r"x: the resume file \.x\.resume is a link: remove it"
    with pytest.raises(ArtifactError, match=told), resume_file.resuming(str(tmp_path / "x"), {}):
        pass
    assert (tmp_path / "notes").read_text() == "precious" and sorted(os.listdir(tmp_path)) == [".x.resume", "notes"]


def test_a_worker_that_records_after_the_end_is_told(tmp_path: Path) -> None:
    with resume_file.resuming(str(tmp_path / "x"), {}) as journal:
        pass
    with pytest.raises(ArtifactError, match="can't be written: Cannot operate on a closed database"):
        journal.finish_row(0, {})
