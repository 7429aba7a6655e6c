"""The command line: one file a command. Each parses, loads, calls a stage, saves and prints.

Everything slow to import (torch, torchvision, Foolbox, scikit-dimension, matplotlib) is imported inside the commands.
"""

from __future__ import annotations

import io
import os
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
    import_model,
    inspect,
    merge,
    plot,
    report,
    train_model,
    verify,
)
from fmtool.errors import FmtoolError

app = typer.Typer(
    name="fmtool",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help answers sooner, and does not fold the example that one can paste
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Which frequencies does an image classifier need, which does an adversarial attack use, how strongly are the two "
    "correlated, and can frequency masks undo the attack? Stages exchange safetensors files; '-' is standard input or output.",
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
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a locale's encoding lacks is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")


class _Command(TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        """Standard input can be read once, and a file that is read is not to be replaced, but by `merge`, which adds to it."""
        output = ctx.params.get("output")
        given = [value for name, value in ctx.params.items() if name != "output"]
        flat = [one for value in given for one in (value if isinstance(value, list | tuple) else [value])]
        if flat.count(STREAM) > 1:
            raise FmtoolError("'-' stands for several files, but standard input holds one: expected it once")
        if output is not None and os.path.isfile(output) and ctx.info_name != "merge":
            names = [one for one in flat if isinstance(one, str)]
            for name in [*names, *(name.rpartition(":")[0] for name in names)]:  # with the split of data, and without
                if os.path.isfile(name) and os.path.samefile(output, name):
                    raise FmtoolError(
                        f"{output}: is read by this command and would be replaced: expected another --output"
                    )
        return super().invoke(ctx)


for command in (
    train_model,
    import_model,
    attack,
    fit_masks,
    correlate,
    class_masks,
    defend,
    check_masks,
    merge,
    inspect,
    verify,
    plot,
    report,
    doctor,
):
    command.register(app)
for registered in app.registered_commands:
    registered.cls = _Command
