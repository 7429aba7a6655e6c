"""The table of a defence: adaptive cells, the worst case, files of before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fmtool.tables.defenses import defense_table
from fmtool.tables.table import as_json


def defense_header(*, adaptive: bool) -> dict[str, Any]:
    """Two columns; two attacks, and one on the masks of the second column."""

    def cell(accuracy: float, adaptive: bool = False) -> dict[str, Any]:
        return {"accuracy": accuracy, "accuracy_right_before": accuracy - 0.01, "adaptive": adaptive}

    matrix: list[Any] = [[cell(0.9), cell(0.8)], [cell(0.1), cell(0.7)], [cell(0.2), cell(0.6)]]
    return {
        "rows": ["clean", "fmn", "pgd", *(["adaptive PGD"] if adaptive else [])], "columns": ["none", "robust FMN"], "n": 50,
        "matrix": [*matrix, *([[None, cell(0.05, True)]] if adaptive else [])], "adaptive": adaptive,
        "worst": [cell(0.1), cell(0.5)], "clean_drop": [0.0, 0.1],
    }  # fmt: skip


def test_the_defence_table_marks_adaptive_cells() -> None:
    """The worst of the others stands below them and above the adaptive row, whose other cells are empty."""
    table = defense_table(defense_header(adaptive=True))
    assert list(table.columns) == ["data", "no mask", "robust FMN"]
    assert table.cells()[1:] == [
        ["FMN", "0.100 (0.090)", "0.700 (0.690)"],
        ["PGD", "0.200 (0.190)", "0.600 (0.590)"],
        ["worst of the non-adaptive, per image", "0.100 (0.090)", "0.500 (0.490)"],
        ["adaptive PGD", "-", "0.050 (0.040) adaptive"],
        ["drop in clean accuracy", "0.000", "0.100"],
    ]
    parsed = json.loads(as_json(table))["rows"]
    names = [f"{column}{part}" for column in ("no mask", "robust FMN") for part in ("", ", right before", ", adaptive")]
    assert all(list(row) == ["data", *names] for row in parsed)
    assert list(parsed[1].values()) == ["FMN", 0.1, pytest.approx(0.09), False, 0.7, pytest.approx(0.69), False]
    assert list(parsed[4].values()) == ["adaptive PGD", None, None, None, 0.05, pytest.approx(0.04), True]
    assert list(parsed[5].values())[1:] == [0.0, None, None, 0.1, None, None]
    (note,) = table.notes
    assert "cells not marked adaptive are non-adaptive: their attacks knew nothing of the masks" in note
    table = defense_table(defense_header(adaptive=False))
    assert [row[0] for row in table.rows[2:]] == [
        "PGD", "worst of the non-adaptive, per image", "drop in clean accuracy",
    ]  # fmt: skip
    assert "all cells are non-adaptive" in table.notes[0]


def test_defence_files_of_before_can_be_read() -> None:
    """They have neither drop nor worst case, and their cells don't say what they are."""
    header = defense_header(adaptive=False)
    old = [[{k: v for k, v in cell.items() if k != "adaptive"} for cell in row] for row in header["matrix"]]
    table = defense_table({"matrix": old, **{key: header[key] for key in ("rows", "columns", "n", "adaptive")}})
    assert [row[0] for row in table.rows] == ["clean", "FMN", "PGD"]
