"""fmtool doctor."""

from __future__ import annotations

import typer

from fmtool.cli import options as opt
from fmtool.cli.session import show, working

EXAMPLE = "fmtool doctor"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog=opt.example(EXAMPLE))(doctor)


def doctor(form: opt.Format = "table", quiet: opt.Quiet = False, debug: opt.Debug = False) -> None:
    """Check the installation: torch and torchvision that fit, a GPU that torch can use, a cache folder, a compiler.

    Exit code 1 if something is broken; a note is only worth knowing.
    """
    with working(None, quiet=quiet, debug=debug, form=form):
        from fmtool import health

        checks = health.check_all()
    show(health.table(checks), form)
    if any(check.state == health.BROKEN for check in checks):
        raise typer.Exit(1)
