"""fmtool import-model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import save
from fmtool.errors import ModelError
from fmtool.models.registry import ARCHITECTURES

EXAMPLE = (
    "fmtool import-model resnet20-12fca82f.th --architecture resnet20 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
    "-o model.safetensors"
)
T = TypeVar("T", int, float)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-model", epilog=options.example(EXAMPLE))(import_model)


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A checkpoint (.pt .pth .th .safetensors, with --architecture), a torchvision name, or package.module:factory, a function that gives an nn.Module.",
        ),
    ],
    output: options.Output,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            autocompletion=options.ARCHITECTURE_NAMES,
            help=f"What a checkpoint fills: {', '.join(ARCHITECTURES)}, a torchvision name, or package.module:factory.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="For a name: default (torchvision's download), none, or a checkpoint. [default: default]"
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="R,G,B",
            help="Normalisation put inside the model: (image - mean) / std. A torchvision name brings its own.",
        ),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="R,G,B", help="See --mean.")] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input-shape",
            metavar="C,H,W",
            help="Shape of its images. [default: 3,32,32 for our own architectures, else 3,224,224]",
        ),
    ] = None,
    keep_classes: Annotated[
        str | None,
        typer.Option(
            "--keep-classes",
            metavar="I,J,...",
            help="Keep these outputs alone, in the order of the data's classes (a 1000-class network on ten classes).",
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option("--class-names", metavar="A,B,...", help="Names of the classes. [default: their numbers]"),
    ] = None,
    seed: options.Seed = 0,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a model file of a checkpoint, a torchvision network or your own module.

    Images are in [0, 1] everywhere: if the network wants them normalised, --mean and --std put that inside the model. Logits
    are expected, not probabilities. A pickled checkpoint that would run code is refused.
    """
    with working(output, quiet=quiet, debug=debug, form=form):
        from fmtool.stages.import_model import import_model as run

        model = run(
            source,
            architecture=architecture,
            weights=weights,
            mean=numbers(mean, "--mean", float),
            std=numbers(std, "--std", float),
            input_shape=numbers(input_shape, "--input-shape", int),
            keep_classes=numbers(keep_classes, "--keep-classes", int),
            class_names=class_names.split(",") if class_names else None,
            seed=seed,
        )
    save(model, output, form)


def numbers(text: str | None, option: str, kind: Callable[[str], T]) -> list[T] | None:
    """A comma-separated option as numbers."""
    try:
        return None if text is None else [kind(part) for part in text.split(",")]
    except ValueError:
        raise ModelError(f"{option} {text}: expected numbers with commas between them") from None
