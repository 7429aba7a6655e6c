"""Tables of results, columns and rows, and their text as CSV, Markdown or JSON. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FORMATS = ("table", "json", "csv", "markdown")


@dataclass(frozen=True)
class Table:
    """columns: heading -> format of its numbers; rows hold raw values, None where there is none; notes stand below."""

    title: str
    columns: dict[str, str]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [
            [text_of(value, form) for value, form in zip(row, self.columns.values(), strict=True)] for row in self.rows
        ]


def as_json(*tables: Table) -> str:
    """One document, whose schema is: an object where there is one table, a list of such objects where there are several.

    {"title": string, "rows": [{heading: string, number, true, false or null}], "notes": [string]}. Every row has all headings,
    in the table's order; null stands for NaN, infinity and for what there is not. Numbers are in full.
    """
    made = [_object(table) for table in tables]
    return json.dumps(made[0] if len(made) == 1 else made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _object(table: Table) -> dict[str, Any]:
    rows = [{name: plain(value) for name, value in zip(table.columns, row, strict=True)} for row in table.rows]
    return {"title": table.title, "rows": rows, "notes": table.notes}


def as_csv(table: Table) -> str:
    """A header line and a line a row, numbers in full; notes are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if plain(value) is None else value for value in row] for row in table.rows])
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """A pipe table, numbers to the right, and its notes below."""
    right = ["---:" if form else "---" for form in table.columns.values()]
    lines = [list(table.columns), right, *table.cells()]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n{note}" for note in table.notes)
    return f"{body}\n{notes}\n" if notes else f"{body}\n"


# all but JSON one after the other
TEXTS: dict[str, Callable[..., str]] = {
    "json": as_json,
    "csv": lambda *tables: "".join(map(as_csv, tables)),
    "markdown": lambda *tables: "".join(map(as_markdown, tables)),
}


def plain(value: Any) -> Any:
    """None for a number that is not finite, as JSON and tables have it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_of(value: Any, form: str) -> str:
    """A cell: `form` is its column's format, "" or "." for text (left or right)."""
    if plain(value) is None:
        return "inf" if value == math.inf else "-"
    return format(value, form) if form not in ("", ".") and not isinstance(value, str) else str(value)
