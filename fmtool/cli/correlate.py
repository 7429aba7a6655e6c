"""fmtool correlate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

import fmtool
from fmtool.artifacts import files
from fmtool.artifacts.format import METADATA_KEY, parse_header
from fmtool.artifacts.matrices import read_matrix
from fmtool.artifacts.output import STDOUT, STREAM, check_target
from fmtool.cli import options
from fmtool.cli.completion import one_of, some_of
from fmtool.cli.session import working
from fmtool.cli.terminal import show
from fmtool.correlation.registry import ALL, DIMENSIONS, STATISTICS, Preset
from fmtool.errors import ArtifactError, FmtoolError
from fmtool.stages.options import DIMENSION, GRID_IMAGES, PERMUTATIONS, STATISTICS_BY_DEFAULT, SUBSET_DRAWS
from fmtool.tables.correlations import correlation_tables

if TYPE_CHECKING:
    from torch import Tensor

    from fmtool.artifacts.format import Artifact

SUMMARY = "Correlate two sets of masks, with permutation nulls."
EXAMPLE = "fmtool correlate essential.safetensors adversarial.safetensors -o correlation.safetensors"


# Over 60 lines: its signature declares the command's options.
def correlate(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Mask file, or a file with a matrix (n, d): .safetensors, .npy, .npz, .pt or .csv (FILE:NAME picks one of several; a .csv's column called label, labels or class holds the labels); - reads a safetensors file from standard input.",
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="The other side. Masks are matched by image, and only images whose class both masks preserve count; matrices are matched by row.",
        ),
    ],
    output: options.OptionalOutput = None,
    statistics: Annotated[
        str,
        typer.Option(
            "--statistics",
            metavar="NAMES",
            autocompletion=some_of({name: kind.measures for name, kind in STATISTICS.items()}),
            help="; ".join(f"{name}: {kind.measures}" for name, kind in STATISTICS.items()) + f"; {ALL}: all of these.",
        ),
    ] = ",".join(STATISTICS_BY_DEFAULT),
    permutations: Annotated[
        int | None,
        typer.Option(
            "--permutations", metavar="N", min=1, help=f"Permutations for each null. [default: {PERMUTATIONS}]"
        ),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option("--preset", metavar="paper", help="paper: the authors' 100 permutations and strict inequality."),
    ] = None,
    no_row_normalise: Annotated[
        bool,
        typer.Option(
            "--no-row-normalise",
            help="Compute IdCor without scaling rows to unit length (the authors' code scales them).",
        ),
    ] = False,
    dimension: Annotated[
        str,
        typer.Option(
            "--dimension",
            metavar="NAME",
            autocompletion=one_of({name: text for name, (_, text) in DIMENSIONS.items()}),
            help="How IdCor estimates dimensions. "
            + "; ".join(f"{name}: {text}" for name, (_, text) in DIMENSIONS.items())
            + ". All but twonn use scikit-dimension and start over for every permutation.",
        ),
    ] = DIMENSION,
    pool: Annotated[
        int | None,
        typer.Option(
            "--pool",
            metavar="P",
            help="Average-pool masks, after --trim, by this odd number, which divides their sides (4.5.2: 7 reduces 224x224 to 32x32).",
        ),
    ] = None,
    trim: Annotated[
        str | None,
        typer.Option(
            "--trim",
            metavar="THRESHOLDS",
            help="Set mask entries at or below this number to 0 first. Several, such as 0,1e-5,1e-3, add a table of each statistic against the threshold; the main table uses the first.",
        ),
    ] = None,
    class_subsets: Annotated[
        bool,
        typer.Option(
            "--class-subsets",
            help="Add a table of each statistic for random subsets of k classes, from 1 to all (4.7, Figure 4), beside equally many pairs of all classes as a control.",
        ),
    ] = False,
    subsample: Annotated[
        str | None,
        typer.Option(
            "--subsample",
            metavar="SIZES",
            help="Add a table of each statistic for random subsamples of these sizes, such as 100,200,400.",
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option("--draws", metavar="N", min=1, help="Random subsets for each k, or subsamples for each size."),
    ] = SUBSET_DRAWS,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Also draw the result to this file: .png, .pdf or .svg."),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    restart: options.Restart = False,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Correlate two sets of masks, each statistic with its permutation null (sections 3.2 and 4.5, Table 1).

    By chance alone, these statistics can lie far from 0 in either direction. Read the adjusted value, (observed - null mean) /
    (1 - null mean), and the within-class null, which shows whether the correlation goes beyond the class. --class-subsets,
    --subsample and several thresholds of --trim each add tables after the main one; in JSON all tables form one list.
    """
    with working(output, quiet=quiet, debug=debug) as bar:
        thresholds = options.numbers(trim, "--trim", float, ", like 0,1e-5,1e-3") or []
        check_plot(plot, output, class_subsets + (subsample is not None) + (len(thresholds) > 1) > 1)
        (x, labels_x), (y, labels_y) = read_side(a), read_side(b)
        correlation = fmtool.correlate(
            x,
            y,
            labels=shared_labels(labels_x, labels_y),
            statistics=statistics,
            permutations=permutations,
            preset=preset,
            row_normalise=not no_row_normalise,
            dimension=dimension,
            pool=pool,
            trim=thresholds,
            class_subsets=class_subsets,
            subsample=options.numbers(subsample, "--subsample", int, ", like 100,200,400") or [],
            draws=draws,
            seed=seed,
            execution=fmtool.Execution(device=device, output=output, restart=restart, progress=bar),
        )
    show(correlation_tables(correlation.header), form, to_stderr=output in STDOUT)
    if plot is not None:  # last, as a picture that can't be written would take the table with it
        from fmtool.plotting import figure

        with working(None, quiet=quiet, debug=debug):
            figure.save(figure.draw([correlation], GRID_IMAGES), plot)


def check_plot(plot: str | None, output: str | None, several: bool) -> None:
    """Refuse a picture that can't be written, of an unknown format, or in the place of the result, before the work is done."""
    if plot is None:
        return
    from fmtool.plotting import figure

    check_target(plot)
    if output is not None and os.path.realpath(plot) == os.path.realpath(output):
        raise FmtoolError(f"--plot and --output name the same file, {plot}")
    figure.check_suffix(plot, "--plot")
    if several:
        raise FmtoolError(
            "--plot draws one curve: give only one of --class-subsets, --subsample and several --trim thresholds, or use `fmtool plot`"
        )


def shared_labels(labels_x: Tensor | None, labels_y: Tensor | None) -> Tensor | None:
    """The labels of either file's rows; if both have labels, they must agree."""
    for labels in (labels_x, labels_y):
        if labels is not None and labels.is_floating_point():
            raise ArtifactError(f"expected labels that are integers, got {labels.dtype}")
    if labels_x is not None and labels_y is not None and labels_x.tolist() != labels_y.tolist():
        raise ArtifactError("the two files label their rows differently")
    return labels_x if labels_y is None else labels_y


def read_side(source: str) -> tuple[Artifact | Tensor, Tensor | None]:
    """A mask file, or another program's matrix (n, d) and the labels of its rows, if it has any."""
    if files.looks_like_artifact(source):
        from fmtool.artifacts import streaming

        return streaming.read(source, "masks"), None  # masks stay in the file until they are needed
    if source == STREAM or files.is_pipe(source):
        data = files.read_bytes(source)
        if METADATA_KEY in (parse_header(data, files.label(source)).get("__metadata__") or {}):
            return files.read(source, "masks", data=data), None
        return read_matrix(source, data)
    return read_matrix(source)
