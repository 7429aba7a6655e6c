"""fmtool plot."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool.cli import options as opt
from fmtool.cli.session import working

EXAMPLE = "fmtool plot essential.safetensors adversarial.safetensors --count 8 -o masks.png"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plot", epilog=opt.example(EXAMPLE))(plot)


def plot(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Mask files (a grid of masks: Figures 3, 5), an attack file and mask files (images before and after filtering: Figure 1), or a class-masks file (Figures 6, 7).",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Picture to write: .png, .pdf or .svg.")
    ],
    count: Annotated[
        int,
        typer.Option(
            "--count",
            metavar="N",
            min=1,
            help="How many images, spread over the classes; every file shows the same ones.",
        ),
    ] = 8,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Draw masks, filtered images or class masks, the zero frequency in the centre."""
    with working(output, quiet=quiet, debug=debug):
        from fmtool import artifacts, plotting

        found = [artifacts.read(file, "attack", "masks", "class-masks") for file in files]
        plotting.save(plotting.draw(found, count), output)
    print(output)
