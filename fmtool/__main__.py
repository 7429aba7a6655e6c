"""`fmtool` and `python -m fmtool`."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

SHARED = ("fit-masks", "attack")  # commands that the processes of torchrun share


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0; 1 bad input, one line; 2 bad usage; 130 Ctrl-C; bugs traceback."""
    from fmtool import distributed
    from fmtool.cli import app
    from fmtool.errors import FmtoolError

    try:
        distributed.refuse_ranks(next((word for word in arguments if not word.startswith("-")), ""), SHARED)
        app(list(arguments), prog_name="fmtool")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except FmtoolError as error:
        if error.__dict__.get("debug"):
            traceback.print_exc()
        print(f"fmtool: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader has gone; without this Python would complain again when it closes standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def main() -> None:
    """The console script. SIGTERM ends it with 143 by way of an exception, so that nothing unfinished is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
