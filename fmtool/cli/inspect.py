"""fmtool inspect."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmtool import artifacts, provenance
from fmtool.artifacts import Description
from fmtool.cli import options as opt
from fmtool.cli.session import show, working
from fmtool.errors import FmtoolError, printable
from fmtool.provenance import SHORT
from fmtool.summaries import joined, tables_of
from fmtool.summaries.correlations import table1
from fmtool.summaries.spectra import KINDS, Source, spectrum_lines, spectrum_table

if TYPE_CHECKING:
    from rich.tree import Tree

EXAMPLE = "fmtool inspect correlation-fmn.safetensors correlation-pgd.safetensors correlation-deepfool.safetensors"
DEEPEST = 50  # stages below one another that are drawn; a tree is drawn by recursion


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog=opt.example(EXAMPLE))(inspect)


def inspect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of any kind, or -. Several correlation files make one table like the paper's Table 1, other files of a kind one with a row each.",
        ),
    ],
    history: Annotated[
        bool,
        typer.Option(
            "--history",
            help="Show options, seed and versions of every stage in the tree of what led to the file, and the shell commands that make it again.",
        ),
    ] = False,
    spectrum: Annotated[
        bool,
        typer.Option(
            "--spectrum",
            help=f"One table for all files ({', '.join(KINDS)}): mean radial frequency and shares of the energy, with intervals.",
        ),
    ] = False,
    form: opt.Format = "table",
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Show what files hold: kind, tensors, the result as a table, the spectrum of masks, and the stages that led to it.

    The digest is checked: a file that was changed or damaged is refused.
    """
    with working(None, quiet=quiet, debug=debug, form=form):
        if history and (spectrum or form != "table"):
            raise FmtoolError("--history goes with neither --spectrum nor --format: it prints a tree")
        found = [artifacts.describe(file, *(KINDS if spectrum else ())) for file in files]
        if spectrum:
            show(
                spectrum_table([_source(file, one, one.arrays()) for file, one in zip(files, found, strict=True)]), form
            )
            return
    if len(found) > 1 and all(one.kind == "correlation" for one in found):
        for file, one in zip(files, found, strict=True) if history else ():
            _show_tree(_tree(file, one, True))
        show(table1([one.header for one in found], [artifacts.label(file) for file in files]), form)
        _show_commands(found if history else ())
        return
    made = []
    for file, one in zip(files, found, strict=True):
        arrays = one.arrays()
        if form == "table":
            print("\n".join(_summary(file, one)))
            _show_tree(_tree(file, one, history))
            if one.kind in KINDS:
                print("\n".join(spectrum_lines(_source(file, one, arrays))))
        made.append((artifacts.label(file), tables_of(one.kind, one.header, arrays)))
    show(joined(made), form)
    _show_commands(found if history else ())


def _show_commands(found: Iterable[Description]) -> None:
    """Last, so that a shell can be given the end of the output."""
    for one in found:
        print("\n".join(provenance.commands(one.history, one.digest, one.header.get("shard"))))


def _summary(file: str, one: Description) -> list[str]:
    lines = [f"{printable(artifacts.label(file))}: kind {one.kind}, schema {artifacts.SCHEMA}, digest {one.digest}"]
    shown = list(one.shapes.items()) if one.kind != "model" else []
    lines += [f"  {printable(name)}: {dtype} {list(shape)}" for name, (dtype, shape) in sorted(shown)]
    if one.kind == "model":
        lines.append(f"  {len(one.shapes)} tensors")
    return lines


def _source(file: str, one: Description, arrays: Any) -> Source:
    return Source(artifacts.label(file), one.kind, one.header, arrays)


def _tree(file: str, one: Description, whole: bool) -> Tree:
    """The file, below it the stage that made it, below each stage what it took; data are the leaves.

    A stage's number is its place in the history; one that fed several stages is shown in full where it comes first.
    whole: with options and versions.
    """
    from rich.text import Text
    from rich.tree import Tree

    stages = list(enumerate(one.history, start=1))
    made = {stage["output"]: (number, stage) for number, stage in stages if "output" in stage}
    shard = one.header.get("shard")
    part = f", shard {shard.get('number')}/{shard.get('of')}" if isinstance(shard, dict) else ""
    tree = Tree(Text(printable(f"{artifacts.label(file)} {one.digest[:SHORT]}{part}")))
    shown: set[int] = set()

    def grow(branch: Tree, number: int, stage: dict[str, Any], depth: int = 1) -> None:
        again = number in shown
        lines = _stage_lines(number, stage)[: None if whole else 1]
        node = branch.add(Text(f"{lines[0]} (as above)" if again else "\n".join(lines)))
        shown.add(number)
        for entry in stage["inputs"] if not again else ():
            if entry["digest"] in made and depth < DEEPEST:
                grow(node, *made[entry["digest"]], depth + 1)
            else:
                node.add(Text(printable(provenance.title(entry))))

    for number, stage in reversed(stages):  # the last one made the file; others only where no digest leads to them
        if number not in shown:
            grow(tree, number, stage)
    return tree


def _stage_lines(number: int, stage: dict[str, Any]) -> list[str]:
    """Command and output's digest, options and seed, versions. Options that chose the images of data are their input's."""
    data: dict[str, Any] = next((entry for entry in stage["inputs"] if entry["kind"] == "data"), {})
    chosen = {key: data[key] for key in ("limit", "size") if data.get(key) is not None}
    said = {**stage["options"], **chosen}
    options = [f"{key}={value}" for key, value in sorted(said.items())]
    options += [f"seed {stage['seed']}"] if "seed" in stage else []
    versions = ", ".join(f"{key} {value}" for key, value in sorted(stage["versions"].items()))
    made = f" -> {stage['output'][:SHORT]}" if "output" in stage else ""
    lines = [f"{number}. {stage['command']}{made}", *([", ".join(options)] if options else []), f"by {versions}"]
    return [printable(line) for line in lines]


def _show_tree(tree: Tree) -> None:
    """Plain text where there is no terminal, and then never folded."""
    from rich.console import Console

    # the stream itself is asked: FORCE_COLOR makes rich believe in a terminal where there is none
    console = Console(file=sys.stdout, force_terminal=None if sys.stdout.isatty() else False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.measure(tree, options=console.options.update(width=10**5)).maximum, console.width)
    console.print(tree)
