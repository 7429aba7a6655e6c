"""Draw the history of a file as a tree."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fmtool.artifacts import files, history
from fmtool.artifacts.format import Description
from fmtool.artifacts.history import SHORT
from fmtool.errors import printable

if TYPE_CHECKING:
    from rich.tree import Tree
DEEPEST = 50  # stages below one another that are drawn; a tree is drawn by recursion


def history_tree(file: str, one: Description, whole: bool) -> Tree:
    """The file, below it the stage that made it, below each stage what it took; data are the leaves.

    A stage's number is its place in the history; one that fed several stages is shown in full where it comes first.
    whole: with options and versions.
    """
    from rich.text import Text
    from rich.tree import Tree

    stages = list(enumerate(one.history, start=1))
    made = {stage["output"]: (number, stage) for number, stage in stages if "output" in stage}
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
            if entry["digest"] in made and depth < DEEPEST:
                grow(node, *made[entry["digest"]], depth + 1)
            else:
                node.add(Text(printable(history.title(entry))))

    for number, stage in reversed(stages):  # the last one made the file; others only where no digest leads to them
        if number not in shown:
            grow(tree, number, stage)
    return tree


def _stage_lines(number: int, stage: dict[str, Any]) -> list[str]:
    """Command and output's digest, options and seed, versions. Options that chose the images of data are their input's."""
    options = history.options_text(stage)
    versions = ", ".join(f"{key} {value}" for key, value in sorted(stage["versions"].items()))
    made = f" -> {stage['output'][:SHORT]}" if "output" in stage else ""
    lines = [f"{number}. {stage['command']}{made}", *([options] if options else []), f"by {versions}"]
    return [printable(line) for line in lines]


def show_tree(tree: Tree) -> None:
    """Plain text where there is no terminal, and then never folded."""
    from rich.console import Console

    # the stream itself is asked: FORCE_COLOR makes rich believe in a terminal where there is none
    console = Console(file=sys.stdout, force_terminal=None if sys.stdout.isatty() else False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.measure(tree, options=console.options.update(width=10**5)).maximum, console.width)
    console.print(tree)
