"""The tables of an artifact of any kind. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fmtool.tables.attacks import attack_table
from fmtool.tables.correlations import correlation_table, correlation_tables
from fmtool.tables.defenses import defense_table
from fmtool.tables.headers import Arrays, Header
from fmtool.tables.heatmaps import heatmap_table, heatmap_tables
from fmtool.tables.masks import class_masks_table, masks_table
from fmtool.tables.models import model_table
from fmtool.tables.table import Table


def table_of(kind: str, header: Header, arrays: Arrays) -> Table:
    """The main table of an artifact of any kind."""
    tables: dict[str, Callable[[], Table]] = {
        "model": lambda: model_table(header),
        "attack": lambda: attack_table(header, arrays),
        "masks": lambda: masks_table(header, arrays),
        "class-masks": lambda: class_masks_table(header, arrays),
        "correlation": lambda: correlation_table(header),
        "defense": lambda: defense_table(header),
        "heatmap": lambda: heatmap_table(header, arrays),
    }
    return tables[kind]()


def tables_of(kind: str, header: Header, arrays: Arrays) -> list[Table]:
    """All tables of an artifact of any kind, including those of a correlation's curves."""
    if kind == "correlation":
        return correlation_tables(header)
    return heatmap_tables(header, arrays) if kind == "heatmap" else [table_of(kind, header, arrays)]


def joined(tables_by_file: Sequence[tuple[str, Sequence[Table]]]) -> list[Table]:
    """The tables of several files, as (name, tables): one table with a row for each file if all have a single row of the same
    columns, else every table, titled with its file's name.
    """
    tables = [(name, table) for name, several in tables_by_file for table in several]
    first = tables[0][1]
    if len(tables_by_file) == 1:
        return list(tables_by_file[0][1])
    if any(len(table.rows) != 1 or table.columns != first.columns for _, table in tables):
        return [replace(table, title=f"{table.title}: {name}", file=name) for name, table in tables]
    notes = dict.fromkeys(note for _, table in tables for note in table.notes)
    holders = {note: [name for name, table in tables if note in table.notes] for note in notes}
    attributed = [
        note if len(holders[note]) == len(tables) else f"{', '.join(holders[note])}: {note}" for note in notes
    ]
    columns, rows = {"file": "", **first.columns}, [[name, *table.rows[0]] for name, table in tables]
    return [Table(first.title, columns, rows, attributed, first.parts)]
