"""fmtool verify."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show

EXAMPLE = "fmtool verify defense.safetensors model.safetensors fmn.safetensors robust.safetensors plain.safetensors"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", epilog=options.example(EXAMPLE))(verify)


def verify(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of any kind, or - ; also data (names of data sets, folders, zips, safetensors files) and checkpoints that they were made from.",
        ),
    ],
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check the digests of files, find which of them were made from which, and say what is missing.

    Files are known by their content, whatever their names. An input that none of the files provides is no error, nor is a file
    that no history speaks of; a damaged or missing file is: a line each, and exit code 1.
    """
    with working(None, quiet=quiet, debug=debug, form=form) as bar:
        from fmtool.stages.verify import examine, table

        found = examine(files, progress=bar)
    show(table(found), form)
    damaged = [file for file in found if file.damage]
    for file in damaged:
        print(f"fmtool: error: {file.damage}", file=sys.stderr)
    if damaged:
        raise typer.Exit(1)
