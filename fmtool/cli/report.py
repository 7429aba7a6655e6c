"""fmtool report."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.stages.options import GRID_IMAGES

SUMMARY = "Put tables and figures on one HTML page."
EXAMPLE = (
    "fmtool report fmn.safetensors essential.safetensors adversarial.safetensors correlation.safetensors -o report.html"
)


def report(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files of any kind; the page shows them in pipeline order."),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Page to write; - writes to standard output.")
    ],
    count: options.Count = GRID_IMAGES,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Put the tables and figures of any set of files on one self-contained HTML page, for screens, phones and print."""
    with working(output, quiet=quiet, debug=debug) as bar:
        from fmtool.artifacts import streaming
        from fmtool.artifacts.output import STDOUT, write_bytes
        from fmtool.stages.report import build

        artifacts = []
        for number, file in enumerate(files):
            bar("reading", number, len(files))
            artifacts.append(streaming.read_any(file))
        write_bytes(build(artifacts, count).encode(), output)
    if output not in STDOUT:
        print(output)
