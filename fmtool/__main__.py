"""`fmtool` and `python -m fmtool`."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any

from fmtool.runtime.signals import SIGNALS

SHARED = ("fit-masks", "attack", "class-masks")  # commands that the processes of torchrun share
# on standard output: errors on files are ArtifactErrors by now
WRITING = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0; 1 bad input, one line; 2 bad usage; 130 Ctrl-C; bugs traceback."""
    from fmtool.cli import parser
    from fmtool.errors import FmtoolError
    from fmtool.runtime import distributed

    try:
        if command := next((word for word in arguments if not word.startswith("-")), ""):
            distributed.refuse_ranks(command, SHARED)
        try:
            parser(list(arguments), prog_name="fmtool")
        finally:
            sys.stdout.flush()  # here, where an error still becomes one line
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except FmtoolError as error:
        if error.debug:
            traceback.print_exc()
        print(f"fmtool: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in WRITING or (error.errno != errno.EPIPE and not _Output.failed):
            raise
        # otherwise Python would complain again when it closes standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # EPIPE: the reader has closed the pipe, which is no error
            print(f"fmtool: error: standard output can't be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


class _Output(io.FileIO):
    """Standard output, which notes that a write failed: an error on the disk may be another file's."""

    failed = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            _Output.failed = True
            raise


class _Dropping(io.FileIO):
    """Drops what can't be written: the disk is full, the reader or the terminal is gone, or a non-blocking pipe is full."""

    def write(self, data: Any, /) -> int:
        written = None
        with contextlib.suppress(OSError):
            written = super().write(data)
        return written or len(data)


_stopped: list[int] = []  # signals received


def _stop(number: int, frame: FrameType | None) -> None:
    """End the command by raising an exception, so that clean-up runs."""
    _stopped.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def main() -> None:
    """The console script. Ctrl-C, SIGTERM and SIGHUP end it with 130, 143 and 129, unless the caller ignores them (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    _mend_streams()
    code = 1
    try:
        code = run_command(sys.argv[1:])
    except BaseException:
        if not _stopped:  # an interrupted import of torch may raise any exception
            raise
    if code and _stopped:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        code = 128 + _stopped[0]
    gc.freeze()  # else Python's exit would search all that torch and its compiler have left behind, for a second or two
    sys.exit(code)


def _mend_streams() -> None:
    """Replace closed streams, which Python sets to None, and let no write to standard error fail. Standard output gets a buffer
    if PYTHONUNBUFFERED took it: a raw file writes a part where the disk is full, and says so only by a number.

    Finished work exits with 0 even if standard error is unusable. Catching errors where lines are printed isn't enough: the
    buffer keeps a line that couldn't be written, Python flushes it again at exit, fails, and exits with 120.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    elif isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _over(_Dropping(sys.stderr.fileno(), "w", closefd=False), sys.stderr, by_line=True)
    if sys.stdout is None:
        print("fmtool: error: standard output is closed", file=sys.stderr)
        sys.exit(1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        by_line = sys.stdout.line_buffering or sys.stdout.write_through
        sys.stdout = _over(_Output(sys.stdout.fileno(), "w", closefd=False), sys.stdout, by_line=by_line)


def _over(file: io.FileIO, stream: io.TextIOWrapper, *, by_line: bool) -> io.TextIOWrapper:
    """Text as the stream encodes it, buffered, to this file."""
    return io.TextIOWrapper(io.BufferedWriter(file), stream.encoding, stream.errors, line_buffering=by_line)


if __name__ == "__main__":
    main()
