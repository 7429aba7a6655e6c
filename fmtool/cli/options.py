"""Options that several commands share, each defined once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fmtool.cli.completion import one_of
from fmtool.datasets.registry import DATASETS
from fmtool.models.registry import ARCHITECTURES
from fmtool.tables.table import FORMATS

DATA_HELP = (
    f"Images: {', '.join(DATASETS)}, a folder or zip with one folder of images a class, or a safetensors file with images "
    "and labels; :train, :test or :all behind it names the split."
)

DATA_NAMES = one_of({name: known.summary for name, known in DATASETS.items()})
ARCHITECTURE_NAMES = one_of({name: known.summary for name, known in ARCHITECTURES.items()})

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model file of train-model or import-model, or - for standard input.")
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", help="File to write, replaced when complete; - is standard output."),
]
OptionalOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write the result to; - is standard output (the table then goes to standard error).",
    ),
]
_DATA: Any = typer.Option("--data", metavar="SOURCE", help=DATA_HELP, autocompletion=DATA_NAMES)
Data = Annotated[str, _DATA]
OptionalData = Annotated[str | None, _DATA]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Use at most N images, spread evenly over the classes."),
]
Size = Annotated[
    int | None, typer.Option("--size", metavar="PIXELS", min=1, help="Squeeze every image to this side length.")
]
LARGEST_SEED = 2**63 - 1  # as torch has it, and files
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of every random draw.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto (a GPU if there is one), cpu, cuda or cuda:N.",
        autocompletion=one_of({"auto": "a GPU if there is one", "cpu": "", "cuda": "the first GPU"}),
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the network with torch.compile, which rounds differently. [default: where there is enough work for it to pay]",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images that go through the network together; found from image shape and device unless given.",
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--factory", metavar="MODULE:NAME", help="Repeat the factory that the model file names, to let its code run."
    ),
]
AllowOtherModel = Annotated[
    bool, typer.Option("--allow-other-model", help="Take files that were made with another model than MODEL.")
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do part I of N, I from 1 to N: every Nth image. 'fmtool merge' joins the parts to the file that would be made at once.",
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Begin anew. Without it the same command goes on where it was interrupted; with '-o -' there is nothing to go on from.",
    ),
]
Lambda = Annotated[
    float | None, typer.Option("--lambda", metavar="NUMBER", help="Weight of the l1 penalty on a mask's entries (A.3).")
]
MinSteps = Annotated[
    int,
    typer.Option("--min-steps", metavar="N", min=0, help="Optimisation steps before the stopping test counts (A.3)."),
]
MaxSteps = Annotated[
    int,
    typer.Option(
        "--max-steps",
        metavar="N",
        min=0,
        help="A mask that has not converged after N + 1 steps, where the authors' code gives up, is kept and flagged.",
    ),
]
Count = Annotated[
    int,
    typer.Option(
        "--count",
        metavar="N",
        min=1,
        help="How many images a grid shows, spread over the classes; every file shows the same ones.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=f"The table as {', '.join(FORMATS)}.",
        autocompletion=one_of(dict.fromkeys(FORMATS, "")),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def example(line: str) -> str:
    """The end of a help text: one line to paste, kept from being folded by the mark before it."""
    return f"\b\nExample:\n  {line}"
