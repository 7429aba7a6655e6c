"""fmtool plot."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool.cli import options
from fmtool.cli.completion import one_of
from fmtool.cli.session import working
from fmtool.plotting.figure import check_suffix
from fmtool.plotting.registry import FIGURES
from fmtool.stages.options import GRID_IMAGES

SUMMARY = "Draw masks, spectra, statistics and curves."
EXAMPLE = "fmtool plot essential.safetensors adversarial.safetensors --count 8 -o masks.png"
KINDS = "Files of any kind except models. Without --figure, the first figure below that accepts them is drawn."
NAMES = "; ".join(f"{name} (of {one.takes}): {one.text}" for name, one in FIGURES.items())


def plot(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help=KINDS)],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Picture to write: .png, .pdf or .svg.")
    ],
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            help=f"Figure to draw. {NAMES}.",
            autocompletion=one_of({name: one.text for name, one in FIGURES.items()}),
        ),
    ] = None,
    count: options.Count = GRID_IMAGES,
    same_images_as: Annotated[
        list[str] | None,
        typer.Option(
            "--same-images-as",
            metavar="FILE",
            help="Draw only images that this file also holds, with masks that preserve their class, so that separate figures show the same images. May be repeated.",
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw what any file but a model holds: masks, spectra, statistics beside their nulls, curves, the defence.

    The zero frequency is in the centre. Figures of single images show images whose masks preserve the class in all files, or any
    masks, with a warning, if there are none. With an attack file they show only images on which it succeeded.
    """
    with working(output, quiet=quiet, debug=debug):
        check_suffix(output)
        from fmtool.artifacts import streaming
        from fmtool.plotting.figure import draw, save

        artifacts = [streaming.read_any(file) for file in files]
        others = [streaming.read_any(file) for file in same_images_as or ()]
        save(draw(artifacts, count, figure, others), output)
    print(output)
