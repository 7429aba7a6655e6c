"""What an artifact says, as a table: one file a kind. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable

from fmtool.summaries.attacks import attack_table
from fmtool.summaries.correlations import correlation_table, correlation_tables
from fmtool.summaries.defenses import defense_table
from fmtool.summaries.headers import Arrays, Header
from fmtool.summaries.masks import class_masks_table, masks_table
from fmtool.summaries.models import model_table
from fmtool.tables import Table


def table_of(kind: str, header: Header, arrays: Arrays) -> Table:
    """The table of any artifact."""
    tables: dict[str, Callable[[], Table]] = {
        "model": lambda: model_table(header),
        "attack": lambda: attack_table(header, arrays),
        "masks": lambda: masks_table(header, arrays),
        "class-masks": lambda: class_masks_table(header, arrays),
        "correlation": lambda: correlation_table(header),
        "defense": lambda: defense_table(header),
    }
    return tables[kind]()


def tables_of(kind: str, header: Header, arrays: Arrays) -> list[Table]:
    """All tables of any artifact: of a correlation also those of its curves."""
    return correlation_tables(header) if kind == "correlation" else [table_of(kind, header, arrays)]
