"""fmtool class-masks."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.cli import options
from fmtool.cli.session import DataOptions, read_source, working
from fmtool.cli.terminal import show_result
from fmtool.runtime import distributed, shards
from fmtool.stages.options import BASIS, CLASS_LAMBDA, MAX_STEPS, MIN_STEPS, ROBUST_CLASS_LAMBDA

SUMMARY = "Fit a frequency mask to each class."
EXAMPLE = "fmtool class-masks model.safetensors pgd-train.safetensors --robust -o robust-pgd.safetensors"


# Over 60 lines: its signature declares the command's options.
def class_masks(
    model: options.Model,
    attack: Annotated[
        str | None,
        typer.Argument(
            metavar="ATTACK", help="Attack file of training images, or - for standard input. Omit it with --data."
        ),
    ] = None,
    *,
    output: options.Output,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust",
            help="Fit robust masks (4.8): each step also fits the mask so that adversarial images predicted as this class get their true label.",
        ),
    ] = False,
    data: options.OptionalTrainingData = None,
    lambda_: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER",
            help=f"Weight of the l1 penalty (A.3). [default: {CLASS_LAMBDA}; {ROBUST_CLASS_LAMBDA} with --robust]",
        ),
    ] = None,
    basis: options.Basis = BASIS,
    min_steps: options.MinSteps = MIN_STEPS,
    max_steps: options.MaxSteps = MAX_STEPS,
    limit: options.Limit = None,
    size: options.Size = None,
    rows: options.Rows = None,
    layout: options.Layout = None,
    pixel_range: options.PixelRange = None,
    classes_by_position: options.ClassesByPosition = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    compile_: options.Compile = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    batch_dependent: options.BatchDependent = False,
    allow_other_model: options.AllowOtherModel = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Fit only part I of N of the masks: every Nth class, I from 1 to N. 'fmtool merge' joins the parts into the file that one run would write (on a GPU, up to rounding).",
        ),
    ] = None,
    restart: options.Restart = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fit one frequency mask per class to all of its correctly classified images (section 4.7), or a robust one (section 4.8).

    --data uses the training split by default. The adversarial images of failed attacks are left out. Masks that do not converge
    are kept and flagged. Under torchrun the processes share the classes, and the first one writes the file.
    """
    rank, _ = distributed.world()
    with (
        working(output, quiet=quiet or rank > 0, debug=debug) as bar,
        distributed.joined(model, attack) as ranks,
    ):
        how = DataOptions(size, limit, rows, layout, pixel_range, classes_by_position, data_root)
        source = read_source(attack, data, how, bar, default="train")
        result = fmtool.class_masks(
            fmtool.read(model, "model"),
            source,
            robust=robust,
            lambda_=lambda_,
            basis=basis,
            min_steps=min_steps,
            max_steps=max_steps,
            limit=limit if data is None else None,  # --data is already limited
            compile_=compile_,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                factory_options=options.literals(factory_option, "--factory-option"),
                batch_dependent=batch_dependent,
                allow_other_model=allow_other_model,
                output=output,
                shard=shards.parse_shard(shard),
                restart=restart,
                ranks=ranks,
                progress=bar,
            ),
        )
    if ranks.leads:
        show_result(result, output, form)
