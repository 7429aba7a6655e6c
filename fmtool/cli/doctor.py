"""fmtool doctor."""

from __future__ import annotations

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show

SUMMARY = "Check the installation."
EXAMPLE = "fmtool doctor"


def doctor(form: options.Format = "table", quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """Check the installation: matching torch and torchvision, a usable GPU, the other libraries, a cache folder, a compiler.

    The exit code is 1 if something is broken. Notes are for information only.
    """
    with working(None, quiet=quiet, debug=debug):
        from fmtool.stages.doctor import BROKEN, check_all, table

        checks = check_all()
    show(table(checks), form)
    if any(check.state == BROKEN for check in checks):
        raise typer.Exit(1)
