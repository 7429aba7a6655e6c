"""fmtool report: a page on disk or on standard output, of as many images as asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run


@pytest.mark.slow
def test_the_command_writes_the_page_and_prints_its_name(run: Run, files: Path, tmp_path: Path) -> None:
    some = [files / f"{name}.safetensors" for name in ("correlation", "defense")]
    target = tmp_path / "report.html"
    done = run("report", *some, "-o", target)
    assert (done.code, done.out, done.err) == (0, f"{target}\n", "")
    page = target.read_text()
    assert page.startswith("<!doctype html>") and page.count("<img") == 3
    streamed = run("report", *some, "-o", "-")
    assert (streamed.code, streamed.out, streamed.err) == (0, page, "")


def test_a_missing_file_is_one_line_and_leaves_the_old_page(run: Run, files: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    done = run("report", files / "defense.safetensors", files / "missing.safetensors", "-o", tmp_path / "report.html")
    assert done.code == 1 and "missing.safetensors: can't be read" in done.err and done.err.count("\n") == 1
    assert (tmp_path / "report.html").read_text() == "old"
