"""fmtool import-model."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.artifacts import files
from fmtool.artifacts.output import STDOUT
from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show, show_result
from fmtool.models.registry import ARCHITECTURES
from fmtool.tables.models import layers_table

SUMMARY = "Import a checkpoint, a named network or your own module."
EXAMPLE = (
    "fmtool import-model resnet20-12fca82f.th --architecture resnet20 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
    "-o model.safetensors"
)


# Over 60 lines: its signature declares the command's options.
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A checkpoint (.pt .pth .th .safetensors; needs --architecture), a torchvision name, timm:NAME, robustbench:NAME, or package.module:factory, a function that returns an nn.Module.",
        ),
    ],
    output: options.Output,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            metavar="NAME",
            autocompletion=options.ARCHITECTURE_NAMES,
            help=f"Network that the checkpoint belongs to: {', '.join(ARCHITECTURES)}, a torchvision name, or package.module:factory.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="SOURCE",
            help=f"Weights for a named network: default (the download of torchvision, timm or RobustBench), none, or a checkpoint; for a factory only a checkpoint. [default: a factory's own; none for timm:NAME; else default, which {' and '.join(ARCHITECTURES)} don't have]",
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="With timm:NAME or robustbench:NAME: download the collection's weights."),
    ] = False,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="R,G,B",
            help="Put the normalisation (image - mean) / std inside the model. Without it, a torchvision network gets the normalisation of torchvision's weights, even with a checkpoint but not with --weights none, and a network of timm gets timm's.",
        ),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="R,G,B", help="See --mean.")] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input-shape",
            metavar="C,H,W",
            help=f"Shape of one input image. [default: 3,32,32 for {' and '.join(ARCHITECTURES)}; what the weights of a network of torchvision, timm or RobustBench expect; else 3,224,224]",
        ),
    ] = None,
    keep_classes: Annotated[
        str | None,
        typer.Option(
            "--keep-classes",
            metavar="I,J,...",
            help="Keep only these outputs, in the order of the data's classes, as for a 1000-class network on ten classes.",
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option("--class-names", metavar="A,B,...", help="Names of the classes. [default: their numbers]"),
    ] = None,
    factory_option: Annotated[
        list[str] | None,
        typer.Option(
            "--factory-option",
            metavar="KEY=VALUE",
            help="Argument of the factory, such as depth=3, or of a network of timm; dataset or threat_model of RobustBench. May be repeated.",
        ),
    ] = None,
    seed: options.Seed = 0,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a model file from a checkpoint, a network of torchvision, timm or RobustBench, or your own module.

    Images are in [0, 1] everywhere. If the network expects normalised images, --mean and --std put the normalisation inside the
    model. The network must return logits, not probabilities. A pickled checkpoint that would run code is refused.
    """
    with working(output, quiet=quiet, debug=debug):
        model = fmtool.import_model(
            source,
            architecture=architecture,
            weights=weights,
            pretrained=pretrained,
            mean=options.numbers(mean, "--mean", float),
            std=options.numbers(std, "--std", float),
            input_shape=options.numbers(input_shape, "--input-shape", int),
            keep_classes=options.numbers(keep_classes, "--keep-classes", int),
            class_names=None if class_names is None else [name.strip() for name in class_names.split(",")],
            factory_options=options.literals(factory_option, "--factory-option"),
            seed=seed,
        )
        if output is not None:
            files.write(model, output)
    show_result(model, output, form)
    if form == "table":
        show(layers_table(model.header, "", every=False), form, to_stderr=output in STDOUT)
