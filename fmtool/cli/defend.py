"""fmtool defend."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.cli import options
from fmtool.cli.session import working
from fmtool.cli.terminal import show_result
from fmtool.errors import ArtifactError

SUMMARY = "Evaluate the two-pass defence with class masks."
EXAMPLE = (
    "fmtool defend model.safetensors fmn.safetensors pgd.safetensors robust-fmn.safetensors robust-pgd.safetensors"
)


def defend(
    model: options.Model,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="ATTACK... CLASSMASKS...",
            help="Attack files of test images and class-masks files, in the order of the table's rows and columns.",
        ),
    ],
    output: options.OptionalOutput = None,
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
    """Evaluate the defence: predict, filter with the predicted class's mask, predict again (section 4.8, Table 4).

    The table has a row for the clean images and for each attack, and a column for no mask and for each set of class masks. An
    attack made without --defense ignores the masks, so its row says little about an attacker who knows them. Attacks made with
    --defense have rows of their own, marked adaptive, each in the column of its masks. Further rows count the images that withstand
    all attacks made without --defense, if there are several, and the clean accuracy lost. Only images in every attack file count.
    """
    with working(output, quiet=quiet, debug=debug) as bar:
        from fmtool.artifacts import streaming

        artifacts = [streaming.read(file, "attack", "class-masks", progress=bar) for file in files]
        attacks = [one for one in artifacts if one.kind == "attack"]
        masks = [one for one in artifacts if one.kind == "class-masks"]
        if not attacks or not masks:
            raise ArtifactError(
                f"expected at least one attack file and one class-masks file, got {len(attacks)} and {len(masks)}"
            )
        defense = fmtool.defend(
            fmtool.read(model, "model"),
            attacks,
            masks,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                factory_options=options.literals(factory_option, "--factory-option"),
                batch_dependent=batch_dependent,
                allow_other_model=allow_other_model,
                output=output,
                progress=bar,
            ),
        )
    show_result(defense, output, form)
