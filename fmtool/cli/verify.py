"""fmtool verify."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show

SUMMARY = "Check files for damage, and find what each was made from."
EXAMPLE = "fmtool verify defense.safetensors model.safetensors fmn.safetensors robust.safetensors plain.safetensors"


def verify(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of any kind, or - for standard input, and the checkpoints, adversarial images and data they were made from (anything that --data takes).",
        ),
    ],
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check the digests of files, find which were made from which, and list missing inputs.

    Files are recognised by content, not by name. A damaged FILE, or one that isn't there, is reported on a line of its own, and the
    exit code is 1. Inputs that are not among the files are listed as missing, which is no error; nor is a file that no history
    mentions.
    """
    with working(None, quiet=quiet, debug=debug) as bar:
        from fmtool.stages.verify import examine, table

        examined = examine(files, progress=bar)
    show(table(examined), form)
    damaged = [file for file in examined if file.damage]
    for file in damaged:
        print(f"fmtool: error: {file.damage}", file=sys.stderr)
    if damaged:
        raise typer.Exit(1)
