"""fmtool heatmap."""

from __future__ import annotations

from typing import Annotated

import typer

import fmtool
from fmtool.artifacts.output import STDOUT
from fmtool.cli import options
from fmtool.cli.session import DataOptions, working
from fmtool.cli.terminal import show
from fmtool.runtime import shards
from fmtool.tables.heatmaps import heatmap_tables

SUMMARY = "Measure errors under noise of one frequency at a time."
EXAMPLE = "fmtool heatmap model.safetensors --data digits --filters -o heatmap.safetensors"


# Over 60 lines: its signature declares the command's options.
def heatmap(
    model: options.Model,
    data: options.Data,
    output: options.OptionalOutput = None,
    norm: Annotated[
        float | None,
        typer.Option(
            "--norm",
            metavar="NUMBER",
            help="l2 norm of the noise in each channel, for pixels in [0, 1]. [default: depends on the image size; 4 at 32x32, 15.7 at 224x224]",
        ),
    ] = None,
    filters: Annotated[
        bool,
        typer.Option(
            "--filters", help="Also measure the accuracy on low-pass, high-pass and band-pass filtered images."
        ),
    ] = False,
    limit: options.Limit = None,
    size: options.Size = None,
    rows: options.Rows = None,
    layout: options.Layout = None,
    pixel_range: options.PixelRange = None,
    classes_by_position: options.ClassesByPosition = False,
    data_root: options.DataRoot = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    compile_: options.Compile = None,
    factory: options.Factory = None,
    factory_option: options.FactoryOption = None,
    shard: options.Shard = None,
    restart: options.Restart = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure how a classifier errs under noise of each frequency: the Fourier heat map of Yin et al. (2019).

    A heat map shows which frequencies hurt, whereas a mask shows which frequencies suffice; `plot --figure compare` draws both.
    The noise is a wave of one frequency, with a random sign in each channel; noisy images are clipped to [0, 1]. All images
    count, whether or not the model gets them right.
    """
    with working(output, quiet=quiet, debug=debug) as bar:
        from fmtool.tables.spectra import arrays

        how = DataOptions(size, limit, rows, layout, pixel_range, classes_by_position, data_root)
        result = fmtool.heatmap(
            fmtool.read(model, "model"),
            how.load(data, bar),
            norm=norm,
            filters=filters,
            compile_=compile_,
            seed=seed,
            execution=fmtool.Execution(
                device=device,
                batch_size=batch_size,
                factory=factory,
                factory_options=options.literals(factory_option, "--factory-option"),
                output=output,
                shard=shards.parse_shard(shard),
                restart=restart,
                progress=bar,
            ),
        )
    show(heatmap_tables(result.header, arrays(result)), form, to_stderr=output in STDOUT)
