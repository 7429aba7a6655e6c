"""fmtool inspect."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from fmtool.artifacts import replay
from fmtool.artifacts.descriptions import describe
from fmtool.artifacts.files import is_pipe, label
from fmtool.artifacts.format import Description
from fmtool.artifacts.output import STREAM
from fmtool.cli import options
from fmtool.cli.history_tree import history_tree, show_tree
from fmtool.cli.session import DataOptions, working
from fmtool.cli.terminal import show
from fmtool.errors import FmtoolError, printable
from fmtool.tables.correlations import table1
from fmtool.tables.models import layers_table
from fmtool.tables.registry import joined, tables_of
from fmtool.tables.spectra import KINDS, Source, spectrum_lines, spectrum_table
from fmtool.tables.table import Table

SUMMARY = "Show what files hold, and how they were made."
EXAMPLE = "fmtool inspect correlation-fmn.safetensors correlation-pgd.safetensors correlation-deepfool.safetensors"


# Over 60 lines: its signature declares the command's options.
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of any kind, or - for standard input; or data as --data takes them. Several correlation files form one table like the paper's Table 1, unless their history is shown; so do several models, attacks or mask files, a row each; other files keep their own tables.",
        ),
    ],
    history: Annotated[
        bool,
        typer.Option(
            "--history",
            help="Show every stage that led to the file, with its options, seed and versions, and the shell commands that would make the file again.",
        ),
    ] = False,
    spectrum: Annotated[
        bool,
        typer.Option(
            "--spectrum",
            help=f"Show one table for all files ({', '.join(KINDS)}): mean radial frequency and shares of the energy, with intervals.",
        ),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Show every layer of model files, with the shape of its output, for fit-masks --layer."
        ),
    ] = False,
    size: options.Size = None,
    layout: options.Layout = None,
    pixel_range: options.PixelRange = None,
    data_root: options.DataRoot = None,
    form: options.Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show what files hold: kind, tensors, the result as a table, the spectrum of masks, and the stages that made them.

    The digest is checked: a file that has been changed or damaged is refused. For data (anything that --data accepts) it shows
    the format, split, images per class, shape, pixel range, and what was left out.
    """
    with working(None, quiet=quiet, debug=debug) as bar:
        if history and (spectrum or layers or form != "table"):
            raise FmtoolError("--history prints a tree and can't be combined with --spectrum, --layers or --format")
        if spectrum and layers:
            raise FmtoolError("--spectrum is for masks and attacks, --layers for models: expected one of the two")
        data = [file for file in files if _is_data(file)]
        how = DataOptions(size=size, layout=layout, pixel_range=pixel_range, data_root=data_root)
        if data:
            if history or spectrum or layers or len(data) < len(files):
                raise FmtoolError(
                    f"{data[0]}: is data, which inspect shows alone, without --history, --spectrum and --layers"
                )
            from fmtool.tables.data import data_table

            tables = [(file, [data_table(how.load(file, bar), bar)]) for file in files]
    if data:
        show(joined(tables), form)
        return
    with working(None, quiet=quiet, debug=debug):
        descriptions = [describe(file, *(KINDS if spectrum else ())) for file in files]
        how.refuse(
            ("size", "layout", "pixel_range"),
            f"applies to data, and {label(files[0])} is an fmtool file: leave the option out",
        )
        described = list(zip(files, descriptions, strict=True))
        correlations = len(files) > 1 and not history and all(one.kind == "correlation" for one in descriptions)
        whole = form == "table" and not (spectrum or layers or correlations)
        lines: list[list[str]] = [[] for _ in files]  # on the spectrum of each
        if spectrum:
            shown: Table | list[Table] = spectrum_table([_source(file, one, one.arrays()) for file, one in described])
        elif layers:
            shown = joined([(label(file), [_layers(file, one)]) for file, one in described])
        elif correlations:
            shown = table1([one.header for one in descriptions], [label(file) for file in files])
        else:
            titled = []
            for number, (file, one) in enumerate(described):
                arrays = one.arrays()
                titled.append((label(file), tables_of(one.kind, one.header, arrays)))
                if whole and one.kind in KINDS:
                    lines[number] = spectrum_lines(_source(file, one, arrays))
            shown = joined(titled)
    for number, (file, one) in enumerate(described):
        if whole:
            print("\n".join(_summary(file, one)))
        if whole or history:
            show_tree(history_tree(file, one, history))
        if lines[number]:
            print("\n".join(lines[number]))
    show(shown, form)
    if whole and len(files) == 1 and "layers" in one.header:
        show(layers_table(one.header, file, every=False), form)
    _show_commands(descriptions if history else ())


def _layers(file: str, one: Description) -> Table:
    if one.kind != "model":
        raise FmtoolError(f"{label(file)}: --layers is for model files, got one of kind {one.kind}")
    return layers_table(one.header, label(file), every=True)


def _is_data(file: str) -> bool:
    """Whether this is what --data takes: a data set's name, a folder, or a file that is not fmtool's own."""
    from fmtool.datasets.readers.registry import is_data
    from fmtool.datasets.registry import DATASETS

    if file == STREAM or is_pipe(file):  # what was read of a pipe is gone
        return False
    source = file if os.path.exists(file) else file.rpartition(":")[0] or file
    return (source in DATASETS and not os.path.exists(source)) or is_data(Path(source))


def _show_commands(descriptions: Iterable[Description]) -> None:
    """Print the commands, last, so that the end of the output can be pasted into a shell."""
    for one in descriptions:
        print("\n".join(replay.commands(one.history, one.kind, one.digest, one.header)))


def _summary(file: str, one: Description) -> list[str]:
    lines = [f"{printable(label(file))}: kind {one.kind}, schema {one.schema}, digest {one.digest}"]
    shown = list(one.shapes.items()) if one.kind != "model" else []
    lines += [f"  {printable(name)}: {dtype} {list(shape)}" for name, (dtype, shape) in sorted(shown)]
    if one.kind == "model":
        lines.append(f"  {len(one.shapes)} tensors")
    return lines


def _source(file: str, one: Description, arrays: Any) -> Source:
    return Source(label(file), one.kind, one.header, arrays)
