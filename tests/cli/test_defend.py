"""`attack --defense` and `defend` on the command line: what they write, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run

from fmtool.artifacts.files import read

ATTACK = ["--data", "digits", "--limit", "30", "--epsilon", "0.1", "--attack-option", "steps=2", "--restarts", "2"]


@pytest.fixture
def adaptive(files: Path, tmp_path: Path, run: Run) -> list[Path]:
    """Attacks on the two-pass classifiers with the robust and with the plain masks."""
    made = []
    for name in ("robust", "plain"):
        made.append(tmp_path / f"adaptive-{name}.safetensors")
        masks = files / f"{name}.safetensors"
        outcome = run("attack", files / "model.safetensors", *ATTACK, "--defense", masks, "-o", made[-1])
        assert outcome.code == 0, outcome.err
        title = {"robust": "robust FMN", "plain": "plain"}[name]
        assert (
            f"adaptive PGD on {title} " in outcome.out and "fooled by attacking it from 2 random starts" in outcome.out
        )
    return made


def test_attack_then_defend(files: Path, tmp_path: Path, adaptive: list[Path], run: Run) -> None:
    for path, name in zip(adaptive, ("robust", "plain"), strict=True):
        found = read(str(path), "attack")
        assert found.header["attack"] == "pgd" and found.header["defense"]["restarts"] == 2
        assert found.header["defense"]["digest"] == read(str(files / f"{name}.safetensors")).digest
    line = ["defend", files / "model.safetensors", *adaptive]
    line += [files / f"{name}.safetensors" for name in ("fmn", "robust", "plain")]
    outcome = run(*line, "-o", tmp_path / "defense.safetensors")
    assert outcome.code == 0
    assert "30 images are not in every attack file and are left out" in outcome.err
    assert outcome.out.count(") adaptive") == 2 and "drop in clean accuracy" in outcome.out
    assert "cells not marked adaptive are non-adaptive: their attacks knew nothing of the masks" in outcome.out
    found = read(str(tmp_path / "defense.safetensors"), "defense")
    assert found.header["rows"] == ["clean", "fmn", "adaptive PGD"] and found.header["n"] == 30
    rows = json.loads(run(*line, "--format", "json").out)["rows"]
    assert [row["data"] for row in rows] == ["clean", "FMN", "adaptive PGD", "drop in clean accuracy"]
    assert rows[2]["no mask"] is None and 0 <= rows[2]["plain"] <= 1
    assert [row["plain, adaptive"] for row in rows[:3]] == [False, False, True]
    assert run("inspect", tmp_path / "defense.safetensors").out.count(") adaptive") == 2


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(files: Path, tmp_path: Path, adaptive: list[Path], run: Run) -> None:
    line = ["attack", files / "model.safetensors", *ATTACK, "--defense", files / "robust.safetensors"]
    assert run(*line, "--attack", "pgd", "-o", tmp_path / "again").code == 0
    assert (tmp_path / "again").read_bytes() == adaptive[0].read_bytes()


@pytest.mark.slow
def test_an_adaptive_file_is_refused_where_it_would_mislead(
    files: Path, tmp_path: Path, adaptive: list[Path], run: Run
) -> None:
    model, target = files / "model.safetensors", tmp_path / "target"
    for line in (
        ["fit-masks", model, adaptive[0], "--for", "essential"],
        ["fit-masks", model, adaptive[0], "--for", "adversarial"],
        ["class-masks", model, adaptive[0]],
        ["class-masks", model, adaptive[0], "--robust"],
    ):
        outcome = run(*line, "-o", target)
        assert outcome.code == 1 and outcome.out == ""
        assert outcome.err == (
            f"fmtool: error: {adaptive[0]}: was made against the two-pass defence: its predictions are not the model's\n"
        )
        assert not target.exists()
    outcome = run("defend", model, adaptive[0], files / "plain.safetensors")
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1
    assert (
        "attacks the robust FMN class masks" in outcome.err and "not among the class-masks files given" in outcome.err
    )


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ("--attack fmn --defense ROBUST", 1, "--defense requires --attack pgd, got fmn"),
        ("--attack pgd --restarts 3", 1, "--restarts requires --defense"),
        ("--restarts 3", 1, "--restarts requires --defense"),
        ("--defense ROBUST --restarts 0", 2, "--restarts"),
        ("--defense MISSING", 1, "can't be read"),
        ("--defense FMN", 1, "expected a class-masks file, got a file of kind attack"),
    ],
)
def test_bad_use_of_a_defence(more: str, code: int, message: str, files: Path, tmp_path: Path, run: Run) -> None:
    names = {"ROBUST": files / "robust.safetensors", "FMN": files / "fmn.safetensors", "MISSING": tmp_path / "missing"}
    words = [names.get(word, word) for word in more.split()]
    outcome = run(
        "attack", files / "model.safetensors", "--data", "digits", "--limit", 9, *words, "-o", tmp_path / "out"
    )
    assert outcome.code == code and message in outcome.err and "Traceback" not in outcome.err
    assert code == 2 or len(outcome.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
