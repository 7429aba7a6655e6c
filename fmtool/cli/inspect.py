"""fmtool inspect."""

from __future__ import annotations

from typing import Annotated

import typer

from fmtool import artifacts
from fmtool.artifacts import Description
from fmtool.cli import options as opt
from fmtool.cli.session import show, working
from fmtool.summaries import table_of
from fmtool.summaries.correlations import table1

EXAMPLE = "fmtool inspect correlation-fmn.safetensors correlation-pgd.safetensors correlation-deepfool.safetensors"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog=opt.example(EXAMPLE))(inspect)


def inspect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of any kind, or -. Several correlation files make one table like the paper's Table 1.",
        ),
    ],
    history: Annotated[bool, typer.Option("--history", help="Also show every stage that led to the file.")] = False,
    form: opt.Format = "table",
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Show what files hold: kind, tensors, the result as a table, and the stages that led to it.

    The digest is checked: a file that was changed or damaged is refused.
    """
    with working(None, quiet=quiet, debug=debug, form=form):
        found = [artifacts.describe(file) for file in files]
    if len(found) > 1 and all(one.kind == "correlation" for one in found):
        show(table1([one.header for one in found]), form)
        return
    for file, one in zip(files, found, strict=True):
        if form == "table":
            print("\n".join(_summary(file, one, history)))
        show(table_of(one.kind, one.header, one.arrays()), form)


def _summary(file: str, one: Description, history: bool) -> list[str]:
    lines = [f"{file}: kind {one.kind}, schema {artifacts.SCHEMA}, digest {one.digest}"]
    shown = list(one.shapes.items()) if one.kind != "model" else []
    lines += [f"  {name}: {dtype} {list(shape)}" for name, (dtype, shape) in sorted(shown)]
    if one.kind == "model":
        lines.append(f"  {len(one.shapes)} tensors")
    for number, stage in enumerate(one.history if history else [], start=1):
        inputs = ", ".join(f"{entry.get('name') or entry['kind']} {entry['digest'][:12]}" for entry in stage["inputs"])
        options = ", ".join(f"{key}={value}" for key, value in sorted(stage["options"].items()))
        versions = ", ".join(f"{key} {value}" for key, value in sorted(stage["versions"].items()))
        seed = f", seed {stage['seed']}" if "seed" in stage else ""
        made = f" -> {stage['output'][:12]}" if "output" in stage else ""
        lines += [
            f"  {number}. {stage['command']}{made}: {options}{seed}",
            f"     from {inputs}",
            f"     by {versions}",
        ]
    if not history:
        lines.append("  made by " + " > ".join(stage["command"] for stage in one.history))
    return lines
