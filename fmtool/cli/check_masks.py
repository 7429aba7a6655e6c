"""fmtool check-masks."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show

EXAMPLE = "fmtool check-masks model.safetensors fmn.safetensors essential.safetensors"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check-masks", epilog=options.example(EXAMPLE))(check_masks)


def check_masks(
    model: options.Model,
    attack: Annotated[
        str, typer.Argument(metavar="ATTACK", help="Attack file with the images that the masks filter, or - .")
    ],
    masks: Annotated[
        str,
        typer.Argument(metavar="MASKS", help="Mask file of fit-masks, or class-masks file; - is standard input."),
    ],
    draws: Annotated[
        int, typer.Option("--draws", metavar="N", min=1, help="Draws of random places, averaged for each image.")
    ] = 10,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    factory: options.Factory = None,
    allow_other_model: options.AllowOtherModel = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Do masks keep their class because of the places they keep? Compare them with masks of the same values elsewhere.

    Essential masks filter the clean images of ATTACK, adversarial ones its adversarial images, class masks all of its clean
    images, each by its true class's mask (section 4.7). Controls have the same number of entries of the full spectrum, symmetric,
    with the same values: at random places, at the lowest frequencies, at the image's largest magnitudes, or where the mask of
    another image lies.
    """
    with working(None, quiet=quiet, debug=debug, form=form) as bar:
        from fmtool.artifacts import files, streaming
        from fmtool.stages.check_masks import check_masks as run
        from fmtool.tables.checks import check_table

        found = run(
            files.read(model, "model"),
            streaming.read(attack, "attack"),
            streaming.read(masks, "masks", "class-masks"),
            draws=draws,
            seed=seed,
            device=device,
            batch=batch_size,
            factory=factory,
            allow_other_model=allow_other_model,
            progress=bar,
        )
    show(check_table(found), form)
