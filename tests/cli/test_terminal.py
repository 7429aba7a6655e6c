"""Tables on a terminal and off it: whole numbers, plain text, and the stream that is free."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from forged import TINY

from fmtool.cli.terminal import show, show_result
from fmtool.tables.table import Table

TABLE = Table("Title [b]", {"name": "", "a long heading": ".3f"}, [["[red]x\x1b", 0.5], ["y", None]], ["a note \x07"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_names_are_text_and_numbers_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    show(TABLE, "table")
    out, err = capsys.readouterr()
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[0] == "Title [b]" and lines[1].split() == ["name", "a", "long", "heading"] and err == ""
    assert lines[3].startswith("[red]x\\x1b ") and lines[3].endswith(" 0.500")
    assert lines[4].split() == ["y", "-"] and lines[5] == "a note \\x07"


def test_no_number_is_cut_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """However wide the table is: others read it."""
    wide = Table("t", {f"heading {k}": ".1f" for k in range(60)}, [[k + 0.5 for k in range(60)]])
    show(wide, "table")
    out, _ = capsys.readouterr()
    assert all(f" {k}.5" in out or out.startswith(f"{k}.5") for k in range(60)) and "…" not in out
    assert len([line for line in out.splitlines() if "heading" in line]) == 1


def test_headings_fold_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    show(TABLE, "table")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in terminal.getvalue().splitlines()]
    assert ["a"] in lines and ["long"] in lines and ["name", "heading"] in lines


def test_several_tables_and_other_formats(capsys: pytest.CaptureFixture[str]) -> None:
    show([TABLE, TABLE], "json")
    assert len(json.loads(capsys.readouterr().out)) == 2
    show([TABLE, TABLE], "csv")
    assert capsys.readouterr().out.splitlines()[0] == "name,a long heading"
    show([TABLE, TABLE], "table", to_stderr=True)
    out, err = capsys.readouterr()
    assert out == "" and err.count("Title [b]") == 2


@pytest.mark.parametrize(("output", "stream"), [(None, "out"), ("-", "err"), ("file", "out")])
def test_a_results_table_goes_where_the_file_does_not(
    output: str | None, stream: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    show_result(TINY, output, "csv")
    shown = capfd.readouterr()
    assert getattr(shown, stream).startswith("data,no mask") and "" in (shown.out, shown.err)
    assert list(tmp_path.iterdir()) == []  # it writes no file
