"""fmtool report."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool.cli import options as opt
from fmtool.cli.session import working

EXAMPLE = (
    "fmtool report fmn.safetensors essential.safetensors adversarial.safetensors correlation.safetensors -o report.html"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog=opt.example(EXAMPLE))(report)


def report(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files of any kinds; they stand in the order of the pipeline."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Page to write; - is standard output.")],
    count: opt.Count = 8,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Put the tables and figures of any set of files on one self-contained HTML page, for a screen, a phone or print."""
    with working(output, quiet=quiet, debug=debug) as bar:
        from fmtool import plotting
        from fmtool import report as page
        from fmtool.targets import STDOUT, write_bytes

        found = []
        for number, file in enumerate(files):
            bar("reading", number, len(files))
            found.append(plotting.read(file))
        write_bytes(page.build(found, count).encode(), output)
    if output not in STDOUT:
        print(output)
