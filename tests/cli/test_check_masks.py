"""fmtool check-masks: its table, its formats, and bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from forged import forge_all

import fmtool


@pytest.mark.slow
def test_the_table_says_what_the_stage_finds(files: Path, run: Run) -> None:
    paths = [files / f"{name}.safetensors" for name in ("model", "fmn", "essential")]
    outcome = run("check-masks", *paths, "--draws", 3, "--format", "json")
    assert outcome.code == 0 and outcome.err == ""
    parsed = json.loads(outcome.out, parse_constant=pytest.fail)
    found = fmtool.check_masks(*(fmtool.read(str(path)) for path in paths), draws=3)
    assert parsed["title"] == "Checked masks (essential, FMN)"
    for row, one in zip(parsed["rows"], found.controls, strict=True):
        assert row["control"] == one.name and row["n"] == one.n
        assert row["preserved %"] == pytest.approx(100 * one.preserved.value)
        assert row["low"] <= row["preserved %"] <= row["high"]
        if one.difference is not None:
            assert row["masks minus control"] == pytest.approx(100 * one.difference.value)
        assert row["p"] == one.p
    stored = fmtool.read(str(paths[2]))["preserved_stored"]
    assert parsed["rows"][1]["preserved %"] == pytest.approx(100 * float(stored.double().mean()))
    assert any("mean of 3 draws" in note for note in parsed["notes"])


@pytest.mark.processes
def test_every_kind_of_masks_and_standard_input(files: Path, run: Run) -> None:
    model, fmn = files / "model.safetensors", files / "fmn.safetensors"
    for name, words in (("adversarial", "does the attack's class stay"), ("plain", "another class is used unchanged")):
        outcome = run("check-masks", model, fmn, files / f"{name}.safetensors", "--draws", 1)
        assert outcome.code == 0 and words in outcome.out, outcome
    line = [sys.executable, "-m", "fmtool", "check-masks", str(model), str(fmn), "-", "--draws", "1"]
    piped = subprocess.run(line, input=(files / "plain.safetensors").read_bytes(), capture_output=True, timeout=120)
    assert piped.returncode == 0 and piped.stdout.decode() == outcome.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("bad/other-model FMN files/essential", r"made with model .*--allow-other-model"),
        ("MODEL FMN bad/class-masks-other", r"class-masks-other.* was made with model"),
        ("MODEL FMN bad/masks-strange", r"share no image"),
        ("MODEL FMN bad/masks-twice", r"an image twice"),
        ("MODEL FMN bad/masks-large", r"the model takes images of \[8, 8\]"),
        ("MODEL FMN bad/masks-size", r"the model takes images of"),
        ("MODEL FMN bad/masks-bright", r"outside \[0, 1\]"),
        ("MODEL FMN bad/masks-relabelled", r"label the same images differently"),
        ("MODEL FMN bad/class-masks-label", r"classes range from . to 10"),
        ("MODEL FMN bad/class-masks-nan", r"not finite"),
        ("MODEL bad/attack-nan files/essential", r"images range from .*nan"),
        ("MODEL FMN MODEL", r"expected a masks or class-masks file, got a file of kind model"),
        ("MODEL files/essential FMN", r"expected an attack file, got a file of kind masks"),
        ("MODEL FMN bad/truncated", r"not a complete safetensors file"),
        ("MODEL FMN files/essential --device gpu", r"--device gpu"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    line: str, pattern: str, run: Run, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bad = _bad(files, tmp_path_factory)
    words = line.replace("MODEL", "files/model").replace("FMN", "files/fmn").split()
    folders = {"files": files, "bad": bad}
    paths = [str(folders[w.split("/")[0]] / f"{w.split('/')[1]}.safetensors") if "/" in w else w for w in words]
    outcome = run("check-masks", *paths)
    assert outcome.code == 1 and outcome.out == "", outcome
    assert re.fullmatch(r"fmtool: error: [^\n]+\n", outcome.err) and re.search(pattern, outcome.err), outcome.err


_FOLDERS: dict[Path, Path] = {}


def _bad(files: Path, factory: pytest.TempPathFactory) -> Path:
    """A folder of damaged and forged files, made once."""
    if files not in _FOLDERS:
        _FOLDERS[files] = factory.mktemp("forged")
        forge_all(files, _FOLDERS[files])
    return _FOLDERS[files]


@pytest.mark.parametrize("added", ["--draws 0", "--draws few", "--seed -1"])
def test_numbers_out_of_range_exit_with_2(added: str, run: Run, files: Path) -> None:
    paths = [files / f"{name}.safetensors" for name in ("model", "fmn", "essential")]
    outcome = run("check-masks", *paths, *added.split())
    assert outcome.code == 2 and outcome.out == "" and "Traceback" not in outcome.err
    assert run("check-masks", *paths[:2]).code == 2
