"""Targets are replaced whole or not at all; links are followed, pipes and devices written directly."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from forged import TINY

import fmtool
from fmtool.artifacts.files import describe
from fmtool.artifacts.format import serialise
from fmtool.artifacts.output import check_target, write_bytes
from fmtool.errors import ArtifactError


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_files_are_written_with_the_users_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        fmtool.write(TINY, str(tmp_path / "file"))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for content in (
        TINY,
        dataclasses.replace(TINY, header={**TINY.header, "n": 2}),
    ):  # a dangling link, then a good one
        digest = fmtool.write(content, str(tmp_path / "link"))
        assert (tmp_path / "link").is_symlink()
        assert describe(str(tmp_path / "real" / "file")).digest == digest
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "real"]


def test_named_pipes_are_written_directly(tmp_path: Path) -> None:
    fifo, found = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    fmtool.write(TINY, str(fifo))
    reader.join(timeout=20)
    assert found == [serialise(TINY)[0]]
    assert fifo.is_fifo() and list(tmp_path.iterdir()) == [fifo]


@pytest.mark.processes
@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/proc/self/fd/1"])
@pytest.mark.parametrize("through", ["pipe", "file"])
def test_standard_output_is_written_directly(target: str, through: str, tmp_path: Path) -> None:
    code = f"from fmtool.artifacts import output; output.check_target({target!r}); output.write_bytes(b'content', {target!r})"
    if through == "pipe":
        assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"content"
    else:
        with open(tmp_path / "out", "wb") as out:
            subprocess.run([sys.executable, "-c", code], check=True, stdout=out)
        assert (tmp_path / "out").read_bytes() == b"content"
        assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, seen, replace = tmp_path / "file", [], os.replace
    target.write_bytes(b"old")

    def watched(source: Path, destination: Path) -> None:
        seen.append((Path(source).parent, Path(source).read_bytes(), target.read_bytes()))
        replace(source, destination)

    monkeypatch.setattr(os, "replace", watched)
    fmtool.write(TINY, str(target))
    new = serialise(TINY)[0]
    assert seen == [(tmp_path, new, b"old")] and target.read_bytes() == new


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / f".file.{'0' * 16}.tmp"
    left.write_bytes(b"half")
    fmtool.write(TINY, str(tmp_path / "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_writing_fails(
    broken: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(ArtifactError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        fmtool.write(TINY, str(target))
    if isinstance(error, OSError):
        assert str(caught.value) == f"{target}: can't be written: No space left on device"
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"old"


def test_full_device_is_told() -> None:
    with pytest.raises(ArtifactError, match="/dev/full: can't be written: No space left"):
        fmtool.write(TINY, "/dev/full")


def test_names_that_leave_no_room_for_files_beside_them_and_folders_are_refused_before_the_work(tmp_path: Path) -> None:
    check_target(str(tmp_path / ("a" * 223)))
    fmtool.write(TINY, tmp_path / ("a" * 223))  # type: ignore[arg-type]  # a path
    with pytest.raises(ArtifactError, match="the name is too long: expected at most 223 bytes"):
        check_target(str(tmp_path / ("a" * 224)))
    with pytest.raises(ArtifactError, match="is a folder, expected a file name"):
        check_target(f"{tmp_path}/new/")


def test_a_full_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmtool.artifacts.output.tempfile.TemporaryFile", lambda dir: open("/dev/full", "w+b"))  # noqa: SIM115
    expected = r"^-: can't be written: No space left on device: expected more room in \S+, or another folder in TMPDIR$"
    with pytest.raises(ArtifactError, match=expected):
        write_bytes(b"content", "-")
