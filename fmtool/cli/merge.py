"""fmtool merge."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

import fmtool
from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show_result

SUMMARY = "Join files about different images, or the shards of a job."
EXAMPLE = "fmtool merge fmn-test.safetensors fmn-train.safetensors -o fmn.safetensors"


def merge(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Attack, mask or heat map files about different images, or the shards of a job; - reads standard input.",
        ),
    ],
    output: options.Output,
    allow_gaps: Annotated[
        bool,
        typer.Option("--allow-gaps", help="Join shards even if some are missing; the history records which are there."),
    ] = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Join attack, mask or heat map files about different images into one, with rows in the order given.

    The files must come from the same model with the same options, apart from those that choose images, such as --limit; where they
    ran (--device, --batch-size) may differ, with a warning, and so may --compile, except for attacks. Their data sets may differ;
    the new file lists them all. Files that share an image are refused. The shards of a job, in any order, become the file that a
    single run would have written.
    """
    with working(output, quiet=quiet, debug=debug) as bar:
        from fmtool.artifacts import streaming

        _allow_open(len(files))
        parts = [streaming.read(file, "attack", "masks", "heatmap", "class-masks", progress=bar) for file in files]
        execution = fmtool.Execution(output=output, progress=bar)
        merged = fmtool.merge(parts, allow_gaps=allow_gaps, execution=execution)
    show_result(merged, output, form)


def _allow_open(files: int) -> None:
    """Let this process have so many more files open than it might by default: all are read from at once."""
    with suppress(ImportError, OSError, OverflowError, ValueError):  # no such limit on Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            wanted = soft + files if hard == resource.RLIM_INFINITY else min(soft + files, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
