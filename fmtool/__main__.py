"""`fmtool` and `python -m fmtool`."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence

SHARED = ("fit-masks", "attack")  # commands that the processes of torchrun share
WRITING = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of standard output: files' errors have become lines


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0; 1 bad input, one line; 2 bad usage; 130 Ctrl-C; bugs traceback."""
    from fmtool import distributed
    from fmtool.cli import app
    from fmtool.errors import FmtoolError

    try:
        distributed.refuse_ranks(next((word for word in arguments if not word.startswith("-")), ""), SHARED)
        try:
            app(list(arguments), prog_name="fmtool")
        finally:
            sys.stdout.flush()  # here, where an error is still a line
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except FmtoolError as error:
        if error.__dict__.get("debug"):
            traceback.print_exc()
        print(f"fmtool: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in WRITING:
            raise
        # without this Python would complain again when it closes standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # then the reader has gone, which is no error
            print(f"fmtool: error: standard output can't be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """The console script. SIGTERM ends it with 143 by way of an exception, so that nothing unfinished is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
