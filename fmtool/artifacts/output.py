"""Write results completely or not at all: to a temporary file beside the target first. Links are followed, pipes and devices
written directly."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

from fmtool.artifacts.locks import lock
from fmtool.errors import ArtifactError

STREAM = "-"  # standard input or output in place of a path
STDOUT = (STREAM, "/dev/stdout")
SEPARATORS = (os.sep, os.altsep or os.sep)
NAME_MAX = 255  # bytes of a file's name, where the file system doesn't say
BESIDE = 32  # bytes that names of files beside a target are longer: temporary ones, and those to resume from
LARGE_FILES = "/var/tmp"  # where there is no TMPDIR: unlike /tmp, it is never in memory
_kept: list[TextIO] = []  # standard output, while `sys.stdout` is standard error
MOVES_OPEN_FILES = os.name != "nt"  # Windows neither renames nor removes a file that is open


def temporary_folder() -> str:
    """$TMPDIR if it is set, as everywhere, else a folder for large files."""
    if "TMPDIR" not in os.environ and os.path.isdir(LARGE_FILES) and os.access(LARGE_FILES, os.W_OK | os.X_OK):
        return LARGE_FILES
    return tempfile.gettempdir()


def write_bytes(data: bytes, target: str) -> None:
    """Write a whole file."""
    with replacing(target) as file:
        file.write(data)


@contextmanager
def replacing(target: str) -> Iterator[IO[bytes]]:
    """A new file to fill, open for reading too, that replaces the target when the block ends without an error.

    It lies beside the target and is then renamed; its permissions follow the umask. For standard output, a pipe or a device it is
    an unnamed file, copied there at the end. ArtifactError if that fails.
    """
    stream, filled = is_stream(target), False
    try:
        if stream:
            with tempfile.TemporaryFile(dir=temporary_folder()) as file:
                yield file
                file.flush()
                filled = True
                file.seek(0)
                _copy(file, target)
            return
        path = Path(os.path.realpath(target))
        sweep(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "x+b") as file:
                with contextlib.suppress(OSError):  # some file systems have no locks
                    lock(file)  # while it is being filled, see `sweep`
                yield file
                file.flush()
                os.fsync(file.fileno())
                if not MOVES_OPEN_FILES:
                    file.close()
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        room = f": expected more room in {temporary_folder()}, or another folder in TMPDIR"
        spool_is_full = stream and not filled and error.errno == errno.ENOSPC
        raise ArtifactError(f"{target}: can't be written: {error.strerror}{room if spool_is_full else ''}") from None


def is_stream(target: str) -> bool:
    """Whether a target is standard output, a pipe or a device, which is written to and not replaced."""
    # the target itself is checked: /proc/self/fd/3 and such resolve to names like pipe:[4711]
    return target in STDOUT or (os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode))


def sweep(path: Path) -> None:
    """Remove the temporary files of `replacing` that killed commands left beside a target."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    with contextlib.suppress(OSError):  # a folder that can be written to, but not listed
        for left in path.parent.iterdir():
            if pattern.fullmatch(left.name):
                # in use by another process, or gone by now
                with contextlib.suppress(OSError), open(left, "r+b") as file:  # NFS locks no file that can't be written
                    lock(file)
                    left.unlink()


@contextmanager
def results_only() -> Iterator[None]:
    """Keep standard output for targets within this block: what third-party code prints goes to standard error."""
    _kept.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def _copy(file: IO[bytes], target: str) -> None:
    if target in STDOUT:
        stream = (_kept or [sys.stdout])[-1].buffer
        shutil.copyfileobj(file, stream)
        stream.flush()
    else:
        with open(target, "wb") as device:
            shutil.copyfileobj(file, device)


def check_target(target: str | None) -> None:
    """Refuse a target that can't be written, before hours of computing."""
    if target is None or target in STDOUT:
        return
    path = Path(os.path.realpath(target))
    if target.endswith(SEPARATORS) or os.path.isdir(path):
        raise ArtifactError(f"{target}: is a folder, expected a file name for --output")
    if not os.path.isdir(path.parent):
        raise ArtifactError(f"{target}: the folder {path.parent.name!r} does not exist")
    longest = _longest_name(path.parent) - BESIDE
    if len(os.fsencode(path.name)) > longest:
        raise ArtifactError(
            f"{target}: the name is too long: expected at most {longest} bytes, as files beside it have longer ones"
        )
    # a regular file is replaced by one beside it, so its folder must be writable, not the file
    if not (
        os.access(path.parent, os.W_OK | os.X_OK)
        if os.path.isfile(path) or not os.path.exists(path)
        else os.access(target, os.W_OK)
    ):
        raise ArtifactError(f"{target}: can't be written: Permission denied")


def _longest_name(folder: Path) -> int:
    """Bytes that a file's name may have in this folder."""
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf
        return NAME_MAX
    return longest if longest > BESIDE else NAME_MAX  # -1: no limit
