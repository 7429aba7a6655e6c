"""fmtool merge."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show_result

EXAMPLE = "fmtool merge fmn-test.safetensors fmn-train.safetensors -o fmn.safetensors"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge", epilog=options.example(EXAMPLE))(merge)


def merge(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Attack files, or mask files, about different images; - is standard input."
        ),
    ],
    output: options.Output,
    allow_gaps: Annotated[
        bool,
        typer.Option(
            "--allow-gaps", help="Join shards though some of their set are missing; the history then says which."
        ),
    ] = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Join attack files, or mask files, about different images into one, rows in the order given.

    They must come from the same model with the same options, --limit aside; data sets may differ, and the file lists them all.
    Files that share an image are refused. The shards of one job, in any order, become the file that the job would make at once.
    """
    with working(output, quiet=quiet, debug=debug, form=form):
        from dataclasses import replace

        from fmtool.artifacts import streaming
        from fmtool.stages.merge import merge as run

        found = run([streaming.read(file, "attack", "masks") for file in files], allow_gaps=allow_gaps, output=output)
    if found.kind == "attack":  # whose table compares all images, in memory
        found = replace(found, tensors=dict(found.tensors))
    show_result(found, output, form)
