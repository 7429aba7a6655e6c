"""fmtool fit-masks."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.cli import options
from fmtool.cli.session import DataOptions, read_source, working
from fmtool.cli.terminal import show_result
from fmtool.masks.registry import OBJECTIVES, ObjectiveName
from fmtool.models.registry import PRECISIONS, Precision
from fmtool.runtime import distributed, shards
from fmtool.stages.options import (
    BASIS,
    INVARIANCE_LAMBDA,
    LAMBDA_TIMES_ENTRIES,
    LARGEST_LAMBDA,
    LAYER,
    MAX_STEPS,
    MIN_STEPS,
    OBJECTIVE,
    PRECISION,
)

SUMMARY = "Fit a frequency mask to each image."
EXAMPLE = "fmtool fit-masks model.safetensors pgd.safetensors --for adversarial --lambda 0.1 -o adversarial.safetensors"


# Over 60 lines: its signature declares the command's options.
def fit_masks(
    model: options.Model,
    attack: Annotated[
        str | None, typer.Argument(metavar="ATTACK", help="Attack file, or - for standard input. Omit it with --data.")
    ] = None,
    *,
    output: options.Output,
    purpose: Annotated[
        options.Purpose,
        typer.Option(
            "--for",
            help="essential: clean images keep their label (M_E). adversarial: adversarial images keep the class they were turned into (M_A).",
        ),
    ],
    data: options.OptionalData = None,
    lambda_: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER",
            help=f"Weight of the l1 penalty, the sum of the mask's entries (A.3: 0.5 for CIFAR-10, 0.01 for Imagenette), or their mean with --objective invariance. [default: min({LARGEST_LAMBDA}, {LAMBDA_TIMES_ENTRIES} / number of values of an image or, with --layer, of the layer's output); {INVARIANCE_LAMBDA} with --objective invariance]",
        ),
    ] = None,
    adapt_lambda: Annotated[
        bool,
        typer.Option(
            "--adapt-lambda",
            help="Refit a mask that loses its class, halving lambda each time, up to 10 times, and record each image's lambda.",
        ),
    ] = False,
    basis: options.Basis = BASIS,
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="What is masked: input (the images), or the output of a layer (channels x height x width), given by its name in the network. 'fmtool inspect MODEL --layers' lists them.",
        ),
    ] = LAYER,
    objective: Annotated[
        ObjectiveName,
        typer.Option(
            "--objective",
            help="What a mask is fitted for. "
            + "; ".join(f"{name}: {text}" for name, text in OBJECTIVES.items())
            + ".",
        ),
    ] = OBJECTIVE,
    min_steps: options.MinSteps = MIN_STEPS,
    max_steps: options.MaxSteps = MAX_STEPS,
    limit: options.Limit = None,
    size: options.Size = None,
    rows: options.Rows = None,
    layout: options.Layout = None,
    pixel_range: options.PixelRange = None,
    classes_by_position: options.ClassesByPosition = False,
    data_root: options.DataRoot = None,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            help="Precision of the network. " + "; ".join(f"{name}: {text}" for name, text in PRECISIONS.items()) + ".",
        ),
    ] = PRECISION,
    perturb: Annotated[
        float,
        typer.Option(
            "--perturb",
            metavar="NUMBER",
            help="Start from 1 - NUMBER * u, with u drawn from [0, 1] for each entry, instead of ones, to see how reproducible a mask is. 1e-7 amounts to rounding.",
        ),
    ] = 0.0,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, max=options.LARGEST_SEED, help="Seed of the draws of --perturb."),
    ] = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    compile_: options.Compile = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    batch_dependent: options.BatchDependent = False,
    allow_other_model: options.AllowOtherModel = False,
    shard: options.Shard = None,
    restart: options.Restart = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fit to each image a sparse frequency mask that preserves its predicted class (sections 3.1 and 4.4).

    Minimises cross-entropy + lambda * sum |M| (see --objective for others) with Adam at a learning rate of 0.01, with entries
    clamped to [0, 1], until the loss settles (A.3). Images misclassified when clean are never used, nor are failed attacks for
    adversarial masks. With --data, essential masks need no attack file. Under torchrun the processes share the images, and the
    first one writes the file.
    """
    rank, _ = distributed.world()
    with (
        working(output, quiet=quiet or rank > 0, debug=debug) as bar,
        distributed.joined(model, attack) as ranks,
    ):
        how = DataOptions(size, limit, rows, layout, pixel_range, classes_by_position, data_root)
        source = read_source(attack, data, how, bar)
        result = fmtool.fit_masks(
            fmtool.read(model, "model"),
            source,
            for_=purpose,
            lambda_=lambda_,
            adapt_lambda=adapt_lambda,
            basis=basis,
            layer=layer,
            objective=objective,
            min_steps=min_steps,
            max_steps=max_steps,
            limit=limit if data is None else None,  # --data is already limited
            precision=precision,
            perturb=perturb,
            seed=seed,
            compile_=compile_,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                batch_dependent=batch_dependent,
                factory_options=options.literals(factory_option, "--factory-option"),
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
