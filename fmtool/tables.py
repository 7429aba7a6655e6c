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


def as_json(table: Table) -> str:
    """One object: title, rows (each an object from heading to value, null for NaN), notes."""
    rows = [{name: plain(value) for name, value in zip(table.columns, row, strict=True)} for row in table.rows]
    return json.dumps({"title": table.title, "rows": rows, "notes": table.notes}, indent=1, ensure_ascii=False) + "\n"


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


TEXTS: dict[str, Callable[[Table], str]] = {"json": as_json, "csv": as_csv, "markdown": as_markdown}


def plain(value: Any) -> Any:
    """None for a number that is not finite, as JSON and tables have it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_of(value: Any, form: str) -> str:
    """A cell: `form` is its column's format, "" or "." for text (left or right)."""
    if plain(value) is None:
        return "inf" if value == math.inf else "-"
    return format(value, form) if form not in ("", ".") and not isinstance(value, str) else str(value)
