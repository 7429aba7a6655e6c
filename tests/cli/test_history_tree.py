"""The history of a file as a tree: each stage below what was made from it, in full once, and not deeper than it can be drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from forged import TINY

import fmtool
from fmtool.artifacts import history
from fmtool.artifacts.files import describe
from fmtool.artifacts.format import Artifact
from fmtool.cli.history_tree import history_tree, show_tree

DATA = {"option": "--data", "name": "set\n", "split": "test", "digest": "f" * 64}


def made(command: str, path: Path, *inputs: object, **header: object) -> Artifact:
    """A file that this command made of others."""
    stages = history.stage(command, {"--limit": 3}, 7, inputs)  # type: ignore[arg-type]
    fmtool.write(dataclasses.replace(TINY, header={**TINY.header, **header}, history=stages), str(path))
    return fmtool.read(str(path))


def shown(path: Path, capsys: pytest.CaptureFixture[str], *, whole: bool = False) -> list[str]:
    show_tree(history_tree(str(path), describe(str(path)), whole))
    return capsys.readouterr().out.splitlines()


def test_a_stage_that_fed_two_others_is_shown_in_full_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made("first", tmp_path / "a", DATA)
    second = made("second", tmp_path / "b", first)
    last = made("last", tmp_path / "c", first, second)
    assert shown(tmp_path / "c", capsys) == [
        f"{tmp_path / 'c'} {last.digest[:12]}",
        "└── 3. last",
        f"    ├── 1. first -> {first.digest[:12]}",
        f"    │   └── data set\\n test {'f' * 12}",
        f"    └── 2. second -> {second.digest[:12]}",
        f"        └── 1. first -> {first.digest[:12]} (as above)",
    ]


def test_options_and_versions_are_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made("first", tmp_path / "a", DATA)
    lines = shown(tmp_path / "a", capsys, whole=True)
    assert lines[1].endswith("1. first") and lines[2].endswith("--limit 3 --seed 7") and "by fmtool " in lines[3]


def test_a_long_chain_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As trees are drawn by recursion. The stages below are roots of their own."""
    monkeypatch.setattr("fmtool.cli.history_tree.DEEPEST", 4)
    file = made("first", tmp_path / "file", DATA)
    for number in range(6):
        file = made(f"next{number}", tmp_path / "file", file)
    lines = shown(tmp_path / "file", capsys)
    assert max(line.index("── ") // 4 for line in lines[1:]) == 4
    assert all(any(f". next{number}" in line for line in lines) for number in range(6))
