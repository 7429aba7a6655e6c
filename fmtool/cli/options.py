"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import typer

from fmtool.attacks.registry import parse_options
from fmtool.cli.completion import one_of
from fmtool.datasets.readers.registry import SHORT as READABLE
from fmtool.datasets.registry import DATA_ROOT, DATASETS
from fmtool.errors import FmtoolError, ModelError
from fmtool.masks.registry import BASES
from fmtool.models.registry import ARCHITECTURES
from fmtool.tables.table import Format as TableFormat

T = TypeVar("T", int, float)

DATA_HELP = (
    f"Images: the path of {READABLE}; or a data set's name, such as digits, cifar10 or imagenette (an unknown name lists all "
    f"{len(DATASETS)}). Append :train, :val, :test or :all to choose the split."
)

DATA_NAMES = one_of({name: known.summary for name, known in DATASETS.items()})
ARCHITECTURE_NAMES = one_of({name: known.summary for name, known in ARCHITECTURES.items()})

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model file from train-model or import-model; - reads standard input.")
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write, replaced only once it is complete; - writes to standard output.",
    ),
]
OptionalOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write the result to; - writes to standard output (the table then goes to standard error).",
    ),
]


def _data(split: str) -> Any:
    return typer.Option(
        "--data", metavar="SOURCE", help=f"{DATA_HELP} [default split: {split}]", autocompletion=DATA_NAMES
    )


_TEST, _TRAIN = _data("test, or val where there is none"), _data("train")
Data = Annotated[str, _TEST]
OptionalData = Annotated[str | None, _TEST]
TrainingData = Annotated[str, _TRAIN]
OptionalTrainingData = Annotated[str | None, _TRAIN]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Use at most N images, spread evenly over the classes."),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PIXELS", min=1, help="Squeeze every image into a square of this side length (bilinear)."
    ),
]
Rows = Annotated[
    str | None,
    typer.Option("--rows", metavar="FIRST:END", help="Use only these rows of the split, counted from 0, END excluded."),
]
Layout = Annotated[
    Literal["nchw", "nhwc", "nhw"] | None,
    typer.Option("--layout", help="Axes of an array of images, where its shape allows more than one reading."),
]
PixelRange = Annotated[
    str | None,
    typer.Option(
        "--pixel-range",
        metavar="LOW,HIGH",
        help="The values of black and white in an array of images, such as 0,255 or -1,1.",
    ),
]
ClassesByPosition = Annotated[
    bool,
    typer.Option(
        "--classes-by-position",
        help="Take labels as the model's outputs, even if data and model name classes differently.",
    ),
]
DataRoot = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help=f"Folder to search for named data sets before downloading them. [default: ${DATA_ROOT}]",
    ),
]
Purpose = Literal["essential", "adversarial"]
LARGEST_SEED = 2**63 - 1  # the largest that torch and our files can hold
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Seed of every random draw.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto (a GPU if there is one), cpu, cuda or cuda:N.",
        autocompletion=one_of({"auto": "a GPU if there is one", "cpu": "", "cuda": "the first GPU"}),
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the network with torch's compiler, which rounds differently. [default: only when there is enough work to repay it]",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images per pass through the network. [default: chosen from image shape and device]",
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--factory",
        metavar="MODULE:NAME",
        help="Allow the factory named in the model file to run: repeat its name here.",
    ),
]
FactoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--factory-option",
        metavar="KEY=VALUE",
        help="Argument of the factory, such as depth=3; for a model file, repeat those that it was made with. May be repeated.",
    ),
]
BatchDependent = Annotated[
    bool,
    typer.Option(
        "--batch-dependent",
        help="Accept a network whose logits for an image depend on the rest of its batch; results then depend on which images share one.",
    ),
]
AllowOtherModel = Annotated[
    bool, typer.Option("--allow-other-model", help="Accept files made with a model other than MODEL.")
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Process only part I of N: every Nth image, I from 1 to N. 'fmtool merge' joins the parts into the file that one run would write.",
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Start over. By default an interrupted command resumes when it is run again, if -o names a file.",
    ),
]
Basis = Annotated[
    str,
    typer.Option(
        "--basis",
        metavar="NAME",
        help="What a mask weights: fourier, the Fourier coefficients (the paper); dct, those of the cosine transform; haar, db2, sym4, coif1 or another orthonormal wavelet of PyWavelets; pixels; phase, the angles of the Fourier coefficients.",
        autocompletion=one_of(BASES),
    ),
]
MinSteps = Annotated[
    int,
    typer.Option("--min-steps", metavar="N", min=0, help="Optimisation steps before the stopping test applies (A.3)."),
]
MaxSteps = Annotated[
    int,
    typer.Option(
        "--max-steps",
        metavar="N",
        min=0,
        help="Stop after N + 1 steps, as the authors' code does; a mask that has not converged by then is kept and flagged.",
    ),
]
Count = Annotated[
    int,
    typer.Option(
        "--count",
        metavar="N",
        min=1,
        help="Number of images in a grid, spread over the classes and the same for every file.",
    ),
]
Format = Annotated[TableFormat, typer.Option("--format", help="How to print the table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no warnings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

TRUTHS = ("true", "false", "none")


def literals(texts: list[str] | None, option: str) -> dict[str, Any]:
    """KEY=VALUE of an option that may be repeated, with values as Python literals, or as text where they aren't one."""
    pairs = [text.partition("=") for text in texts or []]
    wrong = next(("".join(pair) for pair in pairs if not pair[1]), None)
    if wrong is not None:
        raise ModelError(f"{option} {wrong}: expected KEY=VALUE")
    keys = [key for key, _, _ in pairs]
    if again := next((key for key in keys if keys.count(key) > 1), None):
        raise ModelError(f"{option} {again}: given twice")
    values = parse_options({key: value for key, _, value in pairs})
    words = {key: value for key, value in values.items() if isinstance(value, str)}
    unclear = next((key for key, value in words.items() if value.lower() in TRUTHS), None)
    if unclear is not None:  # any text counts as True
        raise ModelError(f"{option} {unclear}={words[unclear]}: expected True, False or None, as Python writes them")
    return values


def numbers(text: str | None, option: str, kind: Callable[[str], T], like: str = "") -> list[T] | None:
    """A comma-separated option as numbers. like: the end of the message, an example."""
    try:
        return None if text is None else [kind(part) for part in text.split(",")]
    except ValueError:
        raise FmtoolError(f"{option} {text}: expected numbers with commas between them{like}") from None


def example(line: str) -> str:
    """The end of a help text: one line to paste. The leading mark prevents wrapping."""
    return f"\b\nExample:\n  {line}"
