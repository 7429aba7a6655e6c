"""A table as JSON, CSV, Markdown and text."""

from __future__ import annotations

import csv
import json
import math

from fmtool.errors import DataError
from fmtool.tables.registry import joined
from fmtool.tables.table import ENDS, TEXTS, Table, as_csv, as_json, as_markdown, interval


def test_formats_hold_the_same_values() -> None:
    table = Table("T", {"name": "", "value": ".2f"}, [["a b", 0.123456], ["c", math.nan], ["d", None]], ["a note"])
    parsed = json.loads(as_json(table))
    assert parsed["rows"] == [
        {"name": "a b", "value": 0.123456},
        {"name": "c", "value": None},
        {"name": "d", "value": None},
    ]
    assert parsed["notes"] == ["a note"]
    assert list(csv.reader(as_csv(table).splitlines())) == [
        ["name", "value"],
        ["a b", "0.123456"],
        ["c", ""],
        ["d", ""],
    ]
    lines = as_markdown(table).splitlines()
    assert lines[1] == "| --- | ---: |" and lines[3] == "| c | - |" and lines[-1] == "a note"


def test_several_numbers_of_a_cell_have_a_heading_each_in_json_and_csv() -> None:
    """Also where no row has them, or fewer."""
    rows = [["x", interval(0.125, math.nan, ".2f"), True], ["y", None, False], ["z", 0.5, None]]
    table = Table("T", {"name": "", "value": "."} | {"sure": ""}, rows, parts={"value": ENDS})
    assert [row[1:] for row in table.cells()] == [["0.12 to -", "yes"], ["-", "no"], ["0.5", "-"]]
    assert json.loads(as_json(table))["rows"] == [
        {"name": "x", "value low": 0.125, "value high": None, "sure": True},
        {"name": "y", "value low": None, "value high": None, "sure": False},
        {"name": "z", "value low": 0.5, "value high": None, "sure": None},
    ]
    assert as_csv(table).splitlines()[:2] == ["name,value low,value high,sure", "x,0.125,,True"]
    (one,) = joined(
        [("a", [Table("t", table.columns, rows[:1], parts=table.parts)]), ("b", [Table("t", table.columns, rows[1:2])])]
    )
    assert one.headings() == ["file", *table.headings()]


def test_names_can_neither_add_a_cell_nor_reach_the_terminal() -> None:
    table = Table("t", {"fi|le": "", "n": "d"}, [["a|b\n\x1b[2J\u202e\udce9é", 1]], ["of \x1b"])
    assert table.cells() == [["a|b\\n\\x1b[2J\\u202e\\udce9é", "1"]]
    lines = as_markdown(table).splitlines()
    assert (
        lines[0] == "| fi\\|le | n |"
        and lines[2] == "| a\\|b\\n\\x1b[2J\\u202e\\udce9é | 1 |"
        and lines[-1] == "of \\x1b"
    )
    assert json.loads(as_json(table))["rows"] == [{"fi|le": table.rows[0][0], "n": 1}]
    as_json(table).encode("ascii")
    assert str(DataError("no \x1b[2J\nfile")) == "no \\x1b[2J file"


def test_several_tables_in_markdown_have_titles_and_space_between_them() -> None:
    """Or a reader takes a table below one without notes for its next rows."""
    one, other = Table("One", {"a": "d"}, [[1]]), Table("Other\n", {"b": "d"}, [[2]], ["note"])
    text = TEXTS["markdown"](one, other)
    assert text == "**One**\n\n| a |\n| ---: |\n| 1 |\n\n**Other\\n**\n\n| b |\n| ---: |\n| 2 |\n\nnote\n"
    assert TEXTS["markdown"](one) == as_markdown(one)


def test_headings_can_neither_end_a_line_nor_reach_the_terminal() -> None:
    assert as_markdown(Table("t", {"a\x1b[2J\nb": ""}, [])).splitlines()[0] == "| a\\x1b[2J\\nb |"
