"""fmtool verify: digests, which file was made from which, and what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from PIL import Image
from safetensors.torch import save_file

import fmtool
from fmtool.models.resnet import ResNet

NAMES = ("model", "fmn", "robust", "plain", "defense")


def rows(run: Run, *paths: object, code: int = 0) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """File's name -> its row, and the notes."""
    outcome = run("verify", *paths, "--format", "json")
    assert outcome.code == code, outcome.err
    found = json.loads(outcome.out)
    assert found["title"] == "Files"
    return {Path(row["file"]).name: row for row in found["rows"]}, found["notes"]


def test_files_are_known_by_content_in_any_order_and_under_any_name(run: Run, files: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"x-{name}").write_bytes((files / f"{name}.safetensors").read_bytes())
    found, notes = rows(run, *(tmp_path / f"x-{name}" for name in reversed(NAMES)))
    made = {
        name: {Path(one).name for one in (row["made from"] or "").split(", ")} - {""} for name, row in found.items()
    }
    assert made == {
        "x-model": set(), "x-fmn": {"x-model"}, "x-robust": {"x-model", "x-fmn"}, "x-plain": {"x-model"},
        "x-defense": {"x-model", "x-fmn", "x-robust", "x-plain"},
    }  # fmt: skip
    assert all(row["state"] == "ok" for row in found.values())
    model = fmtool.read(str(files / "model.safetensors"))
    assert found["x-model"]["kind"] == "model" and found["x-model"]["digest"] == model.digest[:12]
    data = model.history[-1]["inputs"]
    assert [note.partition(", which")[0] for note in notes[:2]] == [
        f"missing: data digits {entry['split']} {entry['digest'][:12]}" for entry in data
    ]
    assert all(note.startswith("missing: data digits") for note in notes)


def test_large_files_are_checked_a_piece_at_a_time(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are the same as those of files that are read at once, and damage is found too."""
    whole = (files / "fmn.safetensors").read_bytes()
    (tmp_path / "changed").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    paths = [*(files / f"{name}.safetensors" for name in NAMES), tmp_path / "changed"]
    at_once = rows(run, *paths, code=1)
    monkeypatch.setattr("fmtool.artifacts.descriptions.LARGE", 0)
    monkeypatch.setattr("fmtool.artifacts.files.read_bytes", lambda source: pytest.fail(f"{source} is read whole"))
    assert rows(run, *paths, code=1) == at_once


def test_where_a_file_between_is_missing_the_one_before_it_is_named(run: Run, files: Path) -> None:
    paths = [files / f"{name}.safetensors" for name in ("correlation", "fmn")]
    found, notes = rows(run, *paths)
    assert found["correlation.safetensors"]["made from"] == str(paths[1])
    for name in ("model", "essential", "adversarial"):
        one = fmtool.read(str(files / f"{name}.safetensors"))
        assert any(note.startswith(f"missing: {one.kind} {one.digest[:12]}, which led to ") for note in notes)


def test_damaged_files_have_a_line_each_and_exit_code_1(run: Run, files: Path, tmp_path: Path) -> None:
    whole = (files / "plain.safetensors").read_bytes()
    (tmp_path / "changed").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (tmp_path / "short.safetensors").write_bytes(whole[:-9])
    paths = [tmp_path / "changed", files / "model.safetensors", tmp_path / "short.safetensors", tmp_path / "missing"]
    found, _ = rows(run, *paths, code=1)
    states = {name: row["state"] for name, row in found.items()}
    assert states == {
        "changed": "damaged",
        "model.safetensors": "ok",
        "short.safetensors": "damaged",
        "missing": "missing",
    }
    lines = run("verify", *paths).err.splitlines()
    reasons = ("does not match its digest", "not a complete safetensors file", "can't be read: No such file")
    assert len(lines) == 3
    for line, path, reason in zip(lines, (paths[0], paths[2], paths[3]), reasons, strict=True):
        assert line.startswith(f"fmtool: error: {path}: ") and reason in line


def test_data_and_checkpoints_are_recognised(run: Run, tmp_path: Path) -> None:
    """A zip with two splits, one of which is cut by --limit; the same images in a folder; a checkpoint; a stranger."""
    digits = fmtool.load_data("digits", limit=20)
    pixels = (digits.images[:, 0] * 255).byte().numpy()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, label in enumerate(digits.labels.tolist()):
            name = f"{'train' if number % 2 else 'val'}/{label}/{number}.png"
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(path)
            archive.write(path, name)
    torch.manual_seed(0)
    torch.save(ResNet(3, 10, blocks=1, width=8).state_dict(), tmp_path / "weights.th")
    save_file({"images": digits.images, "labels": digits.labels}, tmp_path / "stranger.safetensors")
    imported, trained = tmp_path / "imported", tmp_path / "trained"
    data = ["--data", tmp_path / "images.zip", "--limit", 5]
    shape = ["--architecture", "resnet8", "--input-shape", "3,8,8"]
    assert run("import-model", tmp_path / "weights.th", *shape, "-o", imported).code == 0
    assert run("train-model", "--from", imported, "--head-only", *data, "--epochs", 1, "-o", trained).code == 0
    paths = [
        tmp_path / name
        for name in ("imported", "trained", "weights.th", "images.zip", "images", "stranger.safetensors")
    ]
    found, notes = rows(run, *paths)
    assert notes == []
    assert {name: row["kind"] for name, row in found.items()} == {
        "imported": "model", "trained": "model", "weights.th": "checkpoint", "images.zip": "data", "images": "data",
        "stranger.safetensors": "unknown",
    }  # fmt: skip
    assert [name for name, row in found.items() if row["state"] != "ok"] == ["stranger.safetensors"]
    assert found["stranger.safetensors"]["state"] == "unknown"
    assert found["imported"]["made from"] == str(tmp_path / "weights.th")
    inputs = fmtool.read(str(trained)).history[-1]["inputs"]
    assert found["images.zip"]["digest"] == ", ".join(entry["digest"][:12] for entry in inputs[1:])
    assert found["trained"]["made from"].split(", ")[0] == str(imported) and "images" in found["trained"]["made from"]


def test_data_sets_are_known_by_name_and_others_are_not_loaded(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set's digests are those of each split and limit; a text is nothing that anybody speaks of."""
    monkeypatch.setattr("torchvision.datasets.CIFAR10", pytest.fail)
    (tmp_path / "notes.txt").write_text("x")
    found, notes = rows(
        run, "digits", files / "model.safetensors", files / "fmn.safetensors", tmp_path / "notes.txt", "cifar10"
    )
    assert notes == []
    assert (found["digits"]["kind"], found["digits"]["state"]) == ("data", "ok")
    assert found["digits"]["digest"].count(", ") == 2  # training and test images, and 60 of the latter
    assert found["model.safetensors"]["made from"] == "digits"
    assert found["notes.txt"]["state"] == found["cifar10"]["state"] == "unknown"


def test_missing_data_that_differ_in_their_limit_are_told_apart(run: Run, files: Path) -> None:
    _, notes = rows(run, files / "fmn.safetensors")
    assert sum("missing: data digits test" in note for note in notes) == 2
    assert (
        sum(re.match(r"missing: data digits test [0-9a-f]{12}, limit 60, which", note) is not None for note in notes)
        == 1
    )


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_every_format_names_every_file(form: str, run: Run, files: Path) -> None:
    paths = [files / f"{name}.safetensors" for name in NAMES]
    outcome = run("verify", *paths, "--format", form)
    assert outcome.code == 0 and all(str(path) in outcome.out for path in paths)


@pytest.mark.processes
def test_standard_input_is_verified_without_torch(files: Path) -> None:
    code = (
        "import sys; from fmtool.__main__ import run_command; run_command(sys.argv[1:]); print('torch' in sys.modules)"
    )
    line = [sys.executable, "-c", code, "verify", "-", str(files / "model.safetensors")]
    with open(files / "fmn.safetensors", "rb") as stream:
        done = subprocess.run(line, stdin=stream, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith("False\n")
    assert any(
        line.split()[:2] == ["standard", "input"] and "model.safetensors" in line for line in done.stdout.splitlines()
    )
