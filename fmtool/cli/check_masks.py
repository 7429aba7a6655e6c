"""fmtool check-masks."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show
from fmtool.stages.options import PLACE_DRAWS

SUMMARY = "Compare masks with controls at other frequencies."
EXAMPLE = "fmtool check-masks model.safetensors fmn.safetensors essential.safetensors"


def check_masks(
    model: options.Model,
    attack: Annotated[
        str, typer.Argument(metavar="ATTACK", help="Attack file with the images to filter, or - for standard input.")
    ],
    masks: Annotated[
        str,
        typer.Argument(metavar="MASKS", help="File from fit-masks or class-masks, or - for standard input."),
    ],
    draws: Annotated[
        int, typer.Option("--draws", metavar="N", min=1, help="Random controls per image, averaged.")
    ] = PLACE_DRAWS,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    batch_dependent: options.BatchDependent = False,
    allow_other_model: options.AllowOtherModel = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Does a mask preserve its class because of the frequencies it keeps? Compare it with the same values at other frequencies.

    Essential masks filter the clean images of ATTACK, adversarial masks its adversarial images, and class masks all of its clean
    images, each with its true class's mask (section 4.7). Controls put the mask's values on as many other entries, with the same
    symmetry: at random, at the lowest frequencies (if the basis has any), at the image's largest magnitudes, or, for masks of
    images, where another image's mask has its values; class masks are compared with the unchanged mask of another class. A last
    row shows how often the unchanged mask of another class turns images into its class.
    """
    with working(None, quiet=quiet, debug=debug) as bar:
        from fmtool.artifacts import streaming
        from fmtool.tables.checks import check_table

        check = fmtool.check_masks(
            fmtool.read(model, "model"),
            streaming.read(attack, "attack", progress=bar),
            streaming.read(masks, "masks", "class-masks", progress=bar),
            draws=draws,
            seed=seed,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                factory_options=options.literals(factory_option, "--factory-option"),
                batch_dependent=batch_dependent,
                allow_other_model=allow_other_model,
                progress=bar,
            ),
        )
    show(check_table(check), form)
