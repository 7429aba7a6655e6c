"""Draw the history of a file as a tree."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fmtool.artifacts import files, history
from fmtool.artifacts.format import Description
from fmtool.artifacts.history import SHORT, versions_text
from fmtool.errors import printable

if TYPE_CHECKING:
    from rich.tree import Tree
DEEPEST = 50  # levels of stages to draw, as rich draws trees recursively


def history_tree(file: str, one: Description, whole: bool) -> Tree:
    """The file, below it the stage that made it, and below each stage its inputs; data are the leaves.

    A stage's number is its position in the history; a stage that fed several others is shown in full once.
    whole: show options and versions.
    """
    from rich.text import Text
    from rich.tree import Tree

    stages = list(enumerate(one.history, start=1))
    makers = {stage["output"]: (number, stage) for number, stage in stages if "output" in stage}
    shard = history.shard_text(one.header)
    part = f", shard {shard}" if shard else ""
    tree = Tree(Text(printable(f"{files.label(file)} {one.digest[:SHORT]}{part}")))
    shown: set[int] = set()

    def grow(branch: Tree, number: int, stage: dict[str, Any], depth: int = 1) -> None:
        again = number in shown
        lines = _stage_lines(number, stage)[: None if whole else 1]
        node = branch.add(Text(f"{lines[0]} (as above)" if again else "\n".join(lines)))
        shown.add(number)
        for entry in stage["inputs"] if not again else ():
            if entry["digest"] in makers and depth < DEEPEST:
                grow(node, *makers[entry["digest"]], depth + 1)
            else:
                node.add(Text(printable(history.title(entry))))

    for number, stage in reversed(
        stages
    ):  # the last one made the file; others are roots only if no digest leads to them
        if number not in shown:
            grow(tree, number, stage)
    return tree


def _stage_lines(number: int, stage: dict[str, Any]) -> list[str]:
    """Command with the output's digest, options and seed, versions. Options that selected images are shown with the input."""
    options = history.options_text(stage)
    versions = versions_text(stage)
    output = f" -> {stage['output'][:SHORT]}" if "output" in stage else ""
    lines = [f"{number}. {stage['command']}{output}", *([options] if options else []), f"by {versions}"]
    return [printable(line) for line in lines]


def show_tree(tree: Tree) -> None:
    """Print the tree; unwrapped plain text if there is no terminal."""
    from rich.console import Console

    # ask the stream itself: FORCE_COLOR makes rich assume a terminal
    console = Console(file=sys.stdout, force_terminal=None if sys.stdout.isatty() else False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.measure(tree, options=console.options.update(width=10**5)).maximum, console.width)
    console.print(tree)
