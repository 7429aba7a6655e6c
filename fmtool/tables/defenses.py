"""The table of a defence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmtool.artifacts.schema import CELL_PARTS
from fmtool.attacks.registry import title
from fmtool.tables.headers import Header
from fmtool.tables.table import Cell, Table

UNAWARE = "non-adaptive: their attacks knew nothing of the masks"


def defense_table(header: Header) -> Table:
    """The matrix of Table 4: accuracy after the second pass and, in brackets, the authors' figure.

    Below the attacks that ignore the masks, a row counts the images that withstood all of them; the drop in clean accuracy
    comes last.
    """
    columns = {"data": "", **{("no mask" if name == "none" else name): "." for name in header["columns"]}}
    rows: list[list[Any]] = []
    worst = header.get("worst")
    for name, cells in zip(header["rows"], header["matrix"], strict=True):
        if worst and any(cell and cell.get("adaptive") for cell in cells):
            rows.append(_worst(worst))
            worst = None
        rows.append([title(name), *map(_cell, cells)])
    rows += [_worst(worst)] if worst else []
    if "clean_drop" in header:
        rows.append(["drop in clean accuracy", *(Cell(f"{drop:.3f}", (drop,)) for drop in header["clean_drop"])])
    kind = f"cells not marked adaptive are {UNAWARE}" if header["adaptive"] else f"all cells are {UNAWARE}"
    note = (
        f"n = {header['n']}; accuracy; in brackets, only images also right when clean, out of the same n "
        f"(the authors' figure); {kind}"
    )
    parts = {heading: CELL_PARTS for heading, form in columns.items() if form}
    return Table("Accuracy after the second pass (as Table 4)", columns, rows, [note], parts)


def _worst(cells: list[Mapping[str, Any]]) -> list[Any]:
    return ["worst of the non-adaptive, per image", *map(_cell, cells)]


def _cell(cell: Mapping[str, Any] | None) -> Cell | None:
    if cell is None:
        return None
    accuracy, right, adaptive = cell["accuracy"], cell["accuracy_right_before"], bool(cell.get("adaptive"))
    return Cell(f"{accuracy:.3f} ({right:.3f}){' adaptive' if adaptive else ''}", (accuracy, right, adaptive))
