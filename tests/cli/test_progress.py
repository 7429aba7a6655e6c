"""Progress off a terminal, and how to be rid of it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from conftest import Run
from rich.console import Console
from rich.progress import Progress

from fmtool.cli.progress import Bar


def test_quiet_silences_standard_error(files: Path, tmp_path: Path, run: Run) -> None:
    line = ["class-masks", files / "model.safetensors", "--data", "digits", "--limit", 5, "--max-steps", 3]
    line += ["--min-steps", 0, "-o", tmp_path / "file"]
    loud, quiet = run(*line), run(*line, "--quiet")
    assert loud.code == quiet.code == 0 and loud.out == quiet.out != ""
    assert "fmtool: warning: no image of 1, 3, 5, 7, 9: no mask is fitted to them\n" in loud.err
    assert all(entry.startswith("fmtool: warning: ") for entry in loud.err.splitlines())
    assert quiet.err == ""


@pytest.mark.slow
def test_progress_off_a_terminal_is_a_line_now_and_then(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", "--limit", 5]
    line += ["--min-steps", 0, "--max-steps", 3, "-o", tmp_path / "file"]
    seldom = run(*line)
    monkeypatch.setattr("fmtool.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    often = run(*line)
    assert seldom.out == often.out and "fitting" not in seldom.err
    assert re.search(r"^fitting[^\n]*: 5 of 5$", often.err, re.M)
    assert run(*line, "--quiet").err == ""


def test_a_label_may_return_with_another_total() -> None:
    """Reading two splits one after the other, a bar counted the second against the first's total."""
    bar = Bar(quiet=False)
    bar.progress = Progress(console=Console(file=io.StringIO()))
    with bar:
        for label, done, total in (
            ("reading", 5, 5),
            ("reading", 1, 2),
            ("classifying", 1, 1),
            ("reading", 2, 2),
            ("classifying", 0, 1),
        ):
            bar(label, done, total)
    shown = {task.description: (task.completed, task.total, task.visible) for task in bar.progress.tasks}
    assert shown == {"reading": (2, 2, False), "classifying": (0, 1, True)}
    assert not bar.progress.tasks[1].finished
