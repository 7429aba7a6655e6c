"""Locks of open files, where the system and the file system have them."""

from __future__ import annotations

import errno
import importlib
from typing import Any

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # of an OSError that says that there are none


def lock(file: Any) -> None:
    """Lock an open file, or its number, for this process. BlockingIOError where another one has it; OSError where none can."""
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:  # Windows
        raise OSError(errno.ENOLCK, "this system has no locks") from None
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
