"""fmtool import-attack."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.artifacts.history import IMPORTED
from fmtool.cli import options
from fmtool.cli.session import DataOptions, working
from fmtool.cli.terminal import show_result

SUMMARY = "Import adversarial images of another library."
EXAMPLE = (
    "fmtool import-attack model.safetensors --data digits --adversarial adv.npy --name autoattack -o auto.safetensors"
)


def import_attack(
    model: options.Model,
    data: options.Data,
    adversarial: Annotated[
        str,
        typer.Option(
            "--adversarial",
            metavar="FILE",
            help="Adversarial images (.safetensors, .npy, .npz or .pt) in [0, 1], one for each image of --data and in the same order, or in any order with a tensor named index that holds each image's position in the split.",
        ),
    ],
    output: options.Output,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What tables call the attack, such as autoattack.")
    ] = IMPORTED,
    limit: options.Limit = None,
    size: options.Size = None,
    rows: options.Rows = None,
    layout: options.Layout = None,
    pixel_range: options.PixelRange = None,
    classes_by_position: options.ClassesByPosition = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    batch_dependent: options.BatchDependent = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make an attack file from adversarial images that AutoAttack, torchattacks, ART or your own code made.

    Shape and range are checked; predictions, success and distances are computed anew. All later stages take the file.
    """
    with working(output, quiet=quiet, debug=debug) as bar:
        how = DataOptions(size, limit, rows, layout, pixel_range, classes_by_position, data_root)
        result = fmtool.import_attack(
            fmtool.read(model, "model"),
            how.load(data, bar),
            adversarial=adversarial,
            name=name,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                factory_options=options.literals(factory_option, "--factory-option"),
                batch_dependent=batch_dependent,
                output=output,
                progress=bar,
            ),
        )
    show_result(result, output, form)
