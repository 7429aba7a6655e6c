"""The lock of a resume file: a file of its own beside it, removed at the end.

SQLite locks the resume file in its own way. On network file systems and some other systems two kinds of lock on one file would
meet, and a command would shut itself out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmtool.artifacts.locks import NO_LOCKS, lock
from fmtool.errors import ArtifactError, warn

SUFFIX = ".lock"


@contextmanager
def locked(path: Path, target: str) -> Iterator[bool]:
    """Lock a resume file for this process, or warn where files can't be locked; yields whether they can.

    ArtifactError if another command has locked it, or no file can be made beside it.
    """
    beside = _beside(path)
    file = -1
    try:
        while True:
            file = os.open(beside, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                lock(file)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                warn(f"{target}: files can't be locked here: don't run two commands with this target at once")
                os.close(file)
                file = -1
                beside.unlink(missing_ok=True)
                break
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(beside)):
                    break
            os.close(file)  # the command that held it has removed it in the meantime
    except BlockingIOError:
        os.close(file)
        raise ArtifactError(f"{target}: another command is writing it") from None
    except OSError as error:
        raise ArtifactError(f"{target}: the resume file {path.name} can't be written: {error.strerror}") from None
    try:
        yield file >= 0
    finally:
        if file >= 0:
            beside.unlink(missing_ok=True)
            os.close(file)


def in_use(path: Path) -> bool:
    """Whether a command that runs has locked a resume file."""
    return _locks(_beside(path)) is None


def can_lock(path: Path) -> bool:
    """Whether an existing file can be locked where it lies."""
    return _locks(path) is not False


def _locks(path: Path) -> bool | None:
    """Whether a file can be locked; None if another process has. A file that isn't there says nothing against it."""
    try:
        with open(path, "r+b") as file:
            lock(file)
    except BlockingIOError:
        return None
    except OSError as error:
        return error.errno not in NO_LOCKS
    return True


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)
