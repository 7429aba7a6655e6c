"""Elsewhere than Linux: import, every command's help and the quickstart's stages, with what the other system lacks hidden."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fmtool.cli import app

HERE = Path(__file__).parent
SHORT = ["--min-steps", "3", "--max-steps", "5"]
DATA = ["--data", "digits", "--limit", "20"]
# the stages of examples/quickstart.sh, on few images
QUICKSTART = [
    ["train-model", *DATA, "--architecture", "resnet8", "--recipe", "one-cycle", "--epochs", "2", "-o", "model"],
    ["attack", "model", *DATA, "--attack", "pgd", "--epsilon", "0.3", "-o", "attack"],
    ["fit-masks", "model", *DATA, "--for", "essential", *SHORT, "-o", "clean-masks"],
    ["fit-masks", "model", "attack", "--for", "adversarial", *SHORT, "-o", "adversarial"],
    [
        "correlate",
        "clean-masks",
        "adversarial",
        "--statistics",
        "cosine,idcor",
        "--permutations",
        "9",
        "-o",
        "correlation",
    ],
    ["class-masks", "model", *DATA, *SHORT, "-o", "plain"],
    ["class-masks", "model", "attack", "--robust", *SHORT, "-o", "robust"],
    ["defend", "model", "attack", "plain", "robust", "-o", "defense"],
    ["plot", "clean-masks", "adversarial", "-o", "masks.png"],
    ["inspect", "correlation"],
    ["verify", "clean-masks", "adversarial"],
    ["fit-masks", "model", *DATA, "--for", "essential", *SHORT, "-o", "clean-masks"],  # over a file that exists
]


def outcomes(system: str, lines: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, HERE / "other_systems.py", system],
        input=json.dumps(lines),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return [(code, errors) for code, errors in json.loads(done.stdout)]


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("system", ["windows", "without-locks", "without-proc"])
def test_the_quickstarts_stages_run(system: str, tmp_path: Path) -> None:
    helps = [[command, "--help"] for command in sorted(str(one.name) for one in app.registered_commands)]
    for line, (code, errors) in zip(
        [*helps, *QUICKSTART], outcomes(system, [*helps, *QUICKSTART], tmp_path), strict=True
    ):
        assert code == 0, (line, errors)
        resumes = line[0] in ("train-model", "attack", "fit-masks", "correlate", "class-masks") and line[-1] != "--help"
        told = f"{line[-1]}: files can't be locked here: don't run two commands with this target at once" in errors
        assert told == (resumes and system != "without-proc"), (line, errors)
    assert not [
        path.name for path in tmp_path.iterdir() if path.name.startswith(".")
    ]  # neither temporary nor resume files
