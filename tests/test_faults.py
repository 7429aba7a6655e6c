"""Faults: a full disk, a folder that is not ours, input that changes while it is read, a reader that goes.

Each ends in one clear line, the old target whole and nothing beside it but the resume file; then the same command
works.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from command_lines import FEW, LINES, words
from conftest import Outcome, Run

from fmtool.__main__ import run_command
from fmtool.artifacts import streaming
from fmtool.artifacts.format import header_end
from fmtool.errors import ArtifactError, FmtoolWarning


def process(arguments: list[str], before: Callable[[], object] | None = None, **more: object) -> Outcome:
    """The same command in a process of its own; before: what that process does first."""
    line = [sys.executable, "-m", "fmtool", *arguments]
    found = subprocess.run(line, preexec_fn=before, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload]
    return Outcome(found.returncode, found.stdout, found.stderr)


def refused(found: Outcome, target: Path, old: bytes) -> None:
    """One line, the target as it was, and nothing beside it but the resume file."""
    assert found.code == 1 and "Traceback" not in found.err, found
    lines = [line for line in found.err.splitlines() if not line.startswith("fmtool: warning: ")]
    assert len(lines) == 1 and lines[0].startswith("fmtool: error: ") and "can't be written" in lines[0], found.err
    assert target.read_bytes() == old
    left = {path.name for path in target.parent.iterdir()} - {target.name}
    assert left <= {f".{target.name}.resume", f".{target.name}.resume-journal"}, left


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize("command", LINES)
def test_full_disk_in_the_middle_of_any_write(command: str, run: Run, files: Path, tmp_path: Path) -> None:
    name = "picture.png" if command == "plot" else "result"
    (tmp_path / "good").mkdir()
    good, target = tmp_path / "good" / name, tmp_path / "full" / name
    assert run(*words(LINES[command], files, good)).code == 0
    target.parent.mkdir()
    target.write_bytes(b"old")
    for size in (100, good.stat().st_size // 2, good.stat().st_size - 1):
        err = io.StringIO()
        with (
            largest_file(size),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):  # pytest's own is a file too
            warnings.simplefilter("ignore", FmtoolWarning)
            code = run_command(words(LINES[command], files, target))
        refused(Outcome(code, "", err.getvalue()), target, b"old")
    assert run(*words(LINES[command], files, target)).code == 0
    assert target.read_bytes() == good.read_bytes()
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.processes
def test_full_disk_in_a_process_of_its_own(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "masks"
    target.write_bytes(b"old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # noqa: E731
    refused(process(words(LINES["fit-masks"], files, target), limit), target, b"old")


@pytest.mark.processes
def test_a_small_disk(run: Run, files: Path, tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        (disk / "filler").write_bytes(bytes(4_170_000))  # 20 kB are left; progress takes 80 to 300
        found = run(*words(LINES["fit-masks"], files, disk / "masks"))
        assert found.code == 1 and ("No space left" in found.err or "disk is full" in found.err), found
        assert not (disk / "masks").exists()
        (disk / "filler").unlink()
        assert run(*words(LINES["fit-masks"], files, disk / "masks")).code == 0
        assert os.listdir(disk) == ["masks"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in LINES if name != "plot"])
def test_full_device(command: str, run: Run, files: Path) -> None:
    found = run(*words(LINES[command], files, "/dev/full"))
    assert found.code == 1 and found.out == ""
    assert found.err.splitlines()[-1] == "fmtool: error: /dev/full: can't be written: No space left on device"


@pytest.mark.processes
@pytest.mark.parametrize("line", ["inspect IN/fmn", "merge IN/fmn -o -", "inspect IN/fmn --format json"])
def test_standard_output_on_a_full_disk(line: str, files: Path) -> None:
    arguments = words(line, files, "")[:-2]
    with open("/dev/full", "wb") as full:
        found = subprocess.run(
            [sys.executable, "-m", "fmtool", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        "fmtool: error: standard output can't be written: No space left on device"
    ] or (found.stderr.splitlines() == ["fmtool: error: -: can't be written: No space left on device"])


SOMEBODY = """
import os, sys
from fmtool.__main__ import run_command
line, target = sys.argv[1:-1], sys.argv[-1]
assert run_command([*line, "-o", "/dev/null"]) == 0  # loads all that nobody may read
if not os.geteuid():
    os.setgid(65534), os.setuid(65534)
sys.exit(run_command([*line, "-o", target]))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("outer", "mode", "expected"),
    [
        (0o755, 0o555, "can't be written: Permission denied"),
        (0o755, 0o600, "can't be written: Permission denied"),
        (0, 0o555, "the folder 'inner' does not exist"),
    ],
)
def test_folder_of_somebody_else(outer: int, mode: int, expected: str, files: Path) -> None:
    """One that can be entered and not written to, one that can't be entered, and one in such a folder."""
    with tempfile.TemporaryDirectory() as folder:
        inner, target = Path(folder) / "inner", Path(folder) / "inner" / "result"
        inner.mkdir(mode=mode)
        os.chmod(folder, outer)
        try:
            line = [sys.executable, "-c", SOMEBODY, *words(LINES["merge"], files, target)[:-2], str(target)]
            found = subprocess.run(line, capture_output=True, text=True, timeout=60)
        finally:
            os.chmod(folder, 0o755)
        lines = [
            line for line in found.stderr.splitlines() if not line.startswith("checking ")
        ]  # progress, if it is slow
        assert found.returncode == 1 and lines == [f"fmtool: error: {target}: {expected}"], found
        assert list(inner.iterdir()) == []


@pytest.mark.parametrize("how", ["truncated", "overwritten", "replaced"])
def test_input_that_changes_while_it_is_read(how: str, files: Path, tmp_path: Path) -> None:
    """A file that is renamed into its place leaves the old one's content; one that is changed in place is an error."""
    path = tmp_path / "attack"
    content = (files / "fmn.safetensors").read_bytes()
    path.write_bytes(content)
    found = streaming.read(str(path), "attack")
    before = found.rows("images")[:5]
    os.utime(path, ns=(0, 0)) if how == "overwritten" else None  # as if it were written later than it was opened
    if how == "replaced":
        (tmp_path / "other").write_bytes(bytes(len(content)))
        os.replace(tmp_path / "other", path)
        assert torch.equal(found.rows("images")[:5], before)
        return
    with open(path, "r+b") as file:
        file.seek(header_end(content))
        file.truncate() if how == "truncated" else file.write(bytes(64))
    with pytest.raises(ArtifactError, match=r"attack: (changed while|ends before its last tensor)"):
        found.rows("images")[:5]


def test_attack_file_that_changes_while_masks_are_fitted(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "fmn", []
    shutil.copy(files / "fmn.safetensors", path)
    read = streaming.FileRows.__getitem__

    def slow(self: streaming.FileRows, rows: object) -> torch.Tensor:
        calls.append(rows)
        if len(calls) == 20:
            with open(path, "ab") as file:
                file.write(b"more")
        return read(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(streaming.FileRows, "__getitem__", slow)
    line = (
        f"fit-masks {files / 'model.safetensors'} {path} --for essential --batch-size 8 {FEW} -o {tmp_path / 'masks'}"
    )
    found = run(*line.split())
    assert found.code == 1 and found.err.splitlines()[-1] == f"fmtool: error: {path}: changed while it was being read"
    assert not (tmp_path / "masks").exists()


@pytest.mark.processes
@pytest.mark.parametrize("line", ["inspect - --history", "merge - -o -"])
@pytest.mark.parametrize("content", [b"", b"nothing of ours", b"\xff" * 100])
def test_standard_input_that_is_no_file_of_ours(line: str, content: bytes) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "fmtool", *line.split()], input=content, capture_output=True, timeout=60
    )
    assert found.returncode == 1 and found.stdout == b""
    expected = b"standard input is empty" if not content else b"standard input: not a complete safetensors file"
    assert found.stderr.startswith(b"fmtool: error: " + expected) and found.stderr.count(b"\n") == 1


@pytest.mark.processes
@pytest.mark.parametrize("line", ["inspect IN/fmn", "inspect IN/fmn --format json", "merge IN/fmn -o -"])
def test_reader_that_goes_is_no_error(line: str, files: Path) -> None:
    """As with `| head`: exit code 1 and no text."""
    read, write = os.pipe()
    os.close(read)
    arguments = words(line, files, "")[:-2]
    found = subprocess.run(
        [sys.executable, "-m", "fmtool", *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert found.returncode == 1 and found.stderr == ""


def test_two_readers_at_once_see_one_file(files: Path) -> None:
    """A reader's check of the file's stamp does not trouble another reader."""
    found, seen = streaming.read(str(files / "fmn.safetensors"), "attack"), []
    threads = [threading.Thread(target=lambda: seen.append(found["images"].sum())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4 and len({float(one) for one in seen}) == 1
