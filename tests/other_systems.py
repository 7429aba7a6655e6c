"""Run commands as on Windows, in a file system without locks, or without /proc. Usage: other_systems.py SYSTEM < commands

Standard input holds a JSON list of command lines, run one after the other; prints a JSON list of [exit code, error lines].
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import signal
import sys
from typing import Any

READLINK, LISTDIR = os.readlink, os.listdir  # before /proc is hidden


def hide_proc() -> None:
    """Files of /proc don't exist, nor what links to them."""
    import safetensors

    opens, open_path = builtins.open, safetensors.safe_open

    def hidden(path: Any) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc", "/dev/fd")):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    def own_open(path: Any, *rest: Any, **named: Any) -> Any:
        hidden(path)
        return opens(path, *rest, **named)

    def own_safe_open(path: Any, *rest: Any, **named: Any) -> Any:
        hidden(path)
        return open_path(path, *rest, **named)

    builtins.open, safetensors.safe_open = own_open, own_safe_open  # type: ignore[misc, assignment]


def open_files() -> set[str]:
    """Paths that this process has open."""
    links = set()
    for number in LISTDIR("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.add(READLINK(f"/proc/self/fd/{number}"))
    return links


def as_on_windows() -> None:
    """No fcntl, resource, SIGHUP, fork, sysconf or positioned reads; files that are open can be neither renamed nor removed."""
    hide_proc()
    for module in ("fcntl", "resource"):
        sys.modules[module] = None  # type: ignore[assignment]
    del signal.SIGHUP
    for name in ("fork", "sysconf", "preadv", "pread", "pwrite", "pwritev", "sched_getaffinity"):
        delattr(os, name)

    def refusing(function: Any) -> Any:
        def moved(*paths: Any, **named: Any) -> Any:
            in_use = open_files()
            for path in paths:
                if os.path.realpath(path) in in_use:
                    raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used")
            return function(*paths, **named)

        return moved

    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, refusing(getattr(os, name)))
    from fmtool.artifacts import output, streaming

    output.MOVES_OPEN_FILES = streaming.MOVES_OPEN_FILES = False


def without_locks() -> None:
    """A file system that has no locks."""
    import fcntl

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = flock


SYSTEMS = {"windows": as_on_windows, "without-locks": without_locks, "without-proc": hide_proc}


def main() -> None:
    SYSTEMS[sys.argv[1]]()
    import fmtool
    from fmtool.__main__ import run_command

    assert fmtool.__all__
    outcomes = []
    for line in json.load(sys.stdin):
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            code = run_command(line)
        outcomes.append([code, errors.getvalue()])
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
