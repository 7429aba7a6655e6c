"""Print tables on the terminal, or as JSON, CSV or Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from fmtool.artifacts.output import STDOUT
from fmtool.errors import printable
from fmtool.tables.registry import table_of
from fmtool.tables.spectra import arrays
from fmtool.tables.table import TEXTS, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from fmtool.artifacts.format import Artifact

WIDEST = 1000  # columns; wider than any table


def show_result(artifact: Artifact, output: str | None, form: str) -> None:
    """Print an artifact's table: to standard output, or to standard error when that carries the file."""
    show(table_of(artifact.kind, artifact.header, arrays(artifact)), form, to_stderr=output in STDOUT)


def show(tables: Table | Sequence[Table], form: str, *, to_stderr: bool = False) -> None:
    """Print a table, or several, in the asked-for format."""
    stream = sys.stderr if to_stderr else sys.stdout
    several = [tables] if isinstance(tables, Table) else tables
    if form != "table":
        # line by line, so that a reader that closes the pipe in the middle of a long text causes an error
        stream.writelines(TEXTS[form](*several).splitlines(keepends=True))
        return
    for table in several:
        _print(table, stream)


def _print(table: Table, stream: TextIO) -> None:
    """Lay a table out for the terminal."""
    from rich.console import Console

    # ask the stream itself: FORCE_COLOR makes rich assume a terminal
    console = Console(file=stream, force_terminal=None if stream.isatty() else False)
    shown = _rich_table(table, fold=False)
    if console.is_terminal and _width(console, shown) > console.width:
        shown = _rich_table(table, fold=True)
    # still too wide, or no terminal: never truncate a number
    console.width = max(_width(console, shown), console.width)
    console.print(shown)
    for note in table.notes:
        console.print(printable(note), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _rich_table(table: Table, *, fold: bool) -> RichTable:
    """fold: headings break after each word."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text  # plain text, so that brackets in names are not markup

    shown = RichTable(
        title=Text(printable(table.title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading, number in table.columns.items():
        text = printable(heading)
        text = text.replace(" ", "\n") if fold else text
        shown.add_column(Text(text), justify="right" if number else "left", no_wrap=True)
    for cells in table.cells():
        shown.add_row(*map(Text, cells))
    return shown


def _width(console: Console, table: RichTable) -> int:
    """The table's width in columns when nothing is truncated."""
    return console.measure(table, options=console.options.update(width=WIDEST)).maximum
