"""A table of results, and its text as CSV, Markdown or JSON. `cli/terminal.py` lays it out for a terminal. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fmtool.errors import printable

Format = Literal["table", "json", "csv", "markdown"]


ENDS = (" low", " high")  # of an interval, as `Table.parts` has it


@dataclass(frozen=True)
class Cell:
    """Several numbers shown as one text."""

    text: str
    values: Sequence[Any]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """columns: heading -> format of its numbers; rows hold raw values, None if there is none; notes follow the table.

    parts: heading of a column of `Cell`s -> the suffixes of its columns in JSON and CSV, which have one for each number. A cell
    with fewer numbers leaves the last columns empty. file: in CSV, which has no titles, a first column of this name.
    """

    title: str
    columns: dict[str, str]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    file: str = ""

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [
            [text_of(value, form) for value, form in zip(row, self.columns.values(), strict=True)] for row in self.rows
        ]

    def headings(self) -> list[str]:
        """The headings of JSON and CSV."""
        return [heading + part for heading in self.columns for part in self.parts.get(heading, ("",))]

    def values(self) -> list[list[Any]]:
        """The rows of JSON and CSV, matching `headings`."""
        counts = [len(self.parts.get(heading, ("",))) for heading in self.columns]
        lines = []
        for row in self.rows:
            cells = [list(value.values) if isinstance(value, Cell) else [value] for value in row]
            lines.append([
                finite_or_none(value)
                for cell, count in zip(cells, counts, strict=True)
                for value in cell + [None] * (count - len(cell))
            ])  # fmt: skip
        return lines


def as_json(*tables: Table) -> str:
    """One document: an object for a single table, a list of such objects for several.

    {"title": string, "rows": [{heading: string, number, true, false or null}], "notes": [string]}. Every row has all headings,
    in the table's order; null stands for NaN, infinity and missing values. Numbers have full precision, and no string holds a
    measured one: cells with several numbers become several headings. ASCII in any locale.
    """
    objects = [_object(table) for table in tables]
    return json.dumps(objects[0] if len(objects) == 1 else objects, indent=1, allow_nan=False) + "\n"


def _object(table: Table) -> dict[str, Any]:
    rows = [dict(zip(table.headings(), row, strict=True)) for row in table.values()]
    return {"title": table.title, "rows": rows, "notes": table.notes}


def as_csv(table: Table) -> str:
    """A header line and one line per row, with the headings and numbers of JSON, empty for null; without notes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = [table.file] if table.file else []
    writer.writerow([*(["file"] if first else []), *table.headings()])
    writer.writerows([[*first, *("" if value is None else value for value in row)] for row in table.values()])
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """A pipe table with right-aligned numbers, followed by its notes."""
    right = ["---:" if form else "---" for form in table.columns.values()]
    texts = [[cell.replace("|", "\\|") for cell in line] for line in (map(printable, table.columns), *table.cells())]
    lines = [texts[0], right, *texts[1:]]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n{printable(note)}" for note in table.notes)
    return f"{body}\n{notes}\n" if notes else f"{body}\n"


def _all_markdown(*tables: Table) -> str:
    """Tables below each other, with their titles if there are several."""
    if len(tables) == 1:
        return as_markdown(tables[0])
    return "\n".join(f"**{printable(table.title)}**\n\n{as_markdown(table)}" for table in tables)


TEXTS: dict[str, Callable[..., str]] = {
    "json": as_json,
    "csv": lambda *tables: "".join(map(as_csv, tables)),
    "markdown": _all_markdown,
}


def finite_or_none(value: Any) -> Any:
    """The value, or None for a number that is not finite, as in JSON and tables."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_of(value: Any, form: str) -> str:
    """A cell: `form` is its column's format, "" or "." for text (left or right)."""
    if finite_or_none(value) is None:
        return "inf" if value == math.inf else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, form) if form not in ("", ".") and not isinstance(value, str | Cell) else printable(str(value))


def p_form(permutations: int, least: int = 4) -> str:
    """The format of p: `least` decimals, and more where the smallest possible p, 1 / (1 + permutations), would round to 0."""
    return f".{max(least, math.ceil(math.log10(1 + permutations) - 0.3))}f"  # 0.3 < log10(2): half a unit rounds up


def interval(low: float | None, high: float | None, form: str) -> Cell:
    """A cell of two numbers, with the suffixes `ENDS`."""
    return Cell(f"{text_of(low, form)} to {text_of(high, form)}", (low, high))
