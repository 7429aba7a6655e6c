"""The command line, one file per command. Each parses, loads, calls a stage, saves and prints.

Everything slow to import (torch, torchvision, Foolbox, scikit-dimension, matplotlib) is imported inside the commands.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fmtool.artifacts.output import STREAM
from fmtool.cli import (
    attack,
    check_masks,
    class_masks,
    correlate,
    defend,
    doctor,
    fit_masks,
    heatmap,
    import_attack,
    import_model,
    inspect,
    merge,
    options,
    plot,
    report,
    train_model,
    verify,
)
from fmtool.errors import FmtoolError

ANY_SEED = f"0<=x<={options.LARGEST_SEED}"
TYPE = re.compile(
    r" <[^|<>]*>|(?<= )[<\[]([^<>\[\]]*\|[^<>\[\]]*)[>\]]"
)  # a type of the parser, or its list of choices

WRITTEN = ("output", "plot")  # options that name a file that a command makes
# metavars of what a command reads
READ = {"SOURCE", "FILE", "MODEL", "ATTACK", "MASKS", "CLASSMASKS", "A", "B"}

app = typer.Typer(
    name="fmtool",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is faster, and does not wrap the example
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Which frequencies does an image classifier need, which does an adversarial attack use, how strongly are the two "
    "correlated, and can frequency masks undo the attack? Commands exchange safetensors files; '-' stands for standard input or, "
    "except in plot, standard output. "
    "Sections, figures and appendices (A.2) are those of Basile et al., arXiv 2305.15203.",
    epilog="\b\nExample:\n  fmtool train-model --data digits --architecture resnet8 --recipe one-cycle -o model.safetensors",
)


def _version(asked: bool) -> None:
    if asked:
        from fmtool.stages.doctor import versions

        print(", ".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # characters missing from the locale's encoding are no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")


class _Command(TyperCommand):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Without the parser's own names for types, such as <int range>: metavars say what a value is."""
        write_list = formatter.write_dl
        formatter.write_dl = lambda rows, *rest, **more: write_list(
            [(TYPE.sub(r"\1", name), text.replace(ANY_SEED, "x>=0")) for name, text in rows], *rest, **more
        )
        super().format_options(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Refuse to read standard input twice, and to replace a file that is being read (except in `merge`, which adds to it)."""
        output = ctx.params.get("output")
        read = [one.name for one in self.params if set((one.metavar or "?").replace(".", "").split()) <= READ]
        given = [value for name, value in ctx.params.items() if name not in WRITTEN and name in read]
        flat = [one for value in given for one in (value if isinstance(value, list | tuple) else [value])]
        if flat.count(STREAM) > 1:
            raise FmtoolError("'-' is given several times, but standard input holds one file")
        if output is not None and os.path.isfile(output) and ctx.info_name != "merge":
            names = [one for one in flat if isinstance(one, str)]
            for name in [*names, *(name.rpartition(":")[0] for name in names)]:  # with and without a split
                if os.path.isfile(name) and os.path.samefile(output, name):
                    raise FmtoolError(
                        f"{output}: is an input of this command and would be replaced: choose another --output"
                    )
        return super().invoke(ctx)


for command in (
    train_model,
    import_model,
    attack,
    import_attack,
    fit_masks,
    correlate,
    class_masks,
    defend,
    check_masks,
    heatmap,
    merge,
    inspect,
    verify,
    plot,
    report,
    doctor,
):
    name = command.__name__.rpartition(".")[2]
    app.command(
        name.replace("_", "-"), cls=_Command, short_help=command.SUMMARY, epilog=options.example(command.EXAMPLE)
    )(getattr(command, name))

parser = typer.main.get_command(app)  # kept: an application that is called builds all its commands anew each time
