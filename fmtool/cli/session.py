"""What every command does around its work: progress, warnings, saving, printing."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from fmtool import artifacts, targets
from fmtool.errors import FmtoolError, FmtoolWarning, printable, unknown
from fmtool.summaries import table_of
from fmtool.tables import FORMATS, TEXTS, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from fmtool.artifacts import Artifact
    from fmtool.cli.progress import Bar
    from fmtool.datasets import Data

WIDEST = 1000  # columns that no table needs


@contextmanager
def working(output: str | None, *, quiet: bool, debug: bool, form: str = "table") -> Iterator[Bar]:
    """Check the target and format first, then give a progress bar; warnings become lines on standard error."""
    try:
        from fmtool.cli.progress import Bar

        if form not in FORMATS:
            raise FmtoolError(unknown("--format", form, FORMATS))
        targets.check_target(output)
        with warnings.catch_warnings(), Bar(quiet) as bar:
            warnings.simplefilter("ignore" if quiet else "always", FmtoolWarning)
            show = warnings.showwarning

            def line(message: Warning | str, category: type[Warning], *rest: object, **more: object) -> None:
                if issubclass(category, FmtoolWarning):
                    with contextlib.suppress(OSError):  # a full disk behind standard error ends no work
                        bar.console.print(f"fmtool: warning: {message}", markup=False, highlight=False, soft_wrap=True)
                else:
                    show(message, category, *rest, **more)  # type: ignore[arg-type]

            warnings.showwarning = line
            yield bar
    except FmtoolError as error:
        error.__dict__["debug"] = debug
        raise


def read_source(
    attack: str | None,
    data: str | None,
    *,
    default: str = "test",
    size: int | None,
    limit: int | None,
    by_rows: bool = False,
) -> Artifact | Data:
    """What masks are fitted to: an attack file, or the images that --data names, one of the two.

    by_rows: leave the attack's tensors in the file.
    """
    from fmtool import datasets

    if attack is not None and data is None:
        from fmtool import row_files

        return row_files.read(attack, "attack") if by_rows else artifacts.read(attack, "attack")
    if attack is None and data is not None:
        return datasets.load(data, default=default, size=size, limit=limit)
    raise FmtoolError("expected an attack file or --data SOURCE, one of the two")


def save(artifact: Artifact, output: str | None, form: str = "table") -> None:
    """Write the artifact, then print its table."""
    if output is not None:
        artifacts.write(artifact, output)
    show_result(artifact, output, form)


def show_result(artifact: Artifact, output: str | None, form: str) -> None:
    """Print an artifact's table: to standard output, or to standard error when that carries the file."""
    from torch import Tensor

    arrays: dict[str, Any] = {}
    for name in artifact.tensors if artifact.kind != "model" else ():
        rows = artifact.rows(name)
        if not isinstance(rows, Tensor) and len(rows.shape) == 1:
            rows = rows[:]
        arrays[name] = rows.numpy() if isinstance(rows, Tensor) else rows  # the rows of a large file stay there
    show(table_of(artifact.kind, artifact.header, arrays), form, to_stderr=output in targets.STDOUT)


def show(tables: Table | Sequence[Table], form: str, *, to_stderr: bool = False) -> None:
    """Print a table, or several, in the asked-for format."""
    stream = sys.stderr if to_stderr else sys.stdout
    several = [tables] if isinstance(tables, Table) else tables
    if form != "table":
        # by lines: a long text whose reader goes in the middle of it may be lost without an error
        stream.writelines(TEXTS[form](*several).splitlines(keepends=True))
        return
    for table in several:
        _print(table, stream)


def _print(table: Table, stream: TextIO) -> None:
    """For people."""
    from rich.console import Console

    # the stream itself is asked: FORCE_COLOR makes rich believe in a terminal where there is none
    console = Console(file=stream, force_terminal=None if stream.isatty() else False)
    shown = _rich_table(table, fold=False)
    if console.is_terminal and _width(console, shown) > console.width:
        shown = _rich_table(table, fold=True)
    # wider still, or nobody's screen is known: never cut a number
    console.width = max(_width(console, shown), console.width)
    console.print(shown)
    for note in table.notes:
        console.print(printable(note), markup=False, highlight=False, soft_wrap=True)


def _rich_table(table: Table, *, fold: bool) -> RichTable:
    """fold: headings take a line a word."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text  # plain: a name in brackets is no markup

    shown = RichTable(
        title=Text(printable(table.title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading, number in table.columns.items():
        text = heading.replace(" ", "\n") if fold else heading
        shown.add_column(Text(text), justify="right" if number else "left", no_wrap=True)
    for cells in table.cells():
        shown.add_row(*map(Text, cells))
    return shown


def _width(console: Console, table: RichTable) -> int:
    """Columns that the table takes where nothing is cut."""
    return console.measure(table, options=console.options.update(width=WIDEST)).maximum
