"""fmtool inspect on data: how a source is understood."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from conftest import Run
from PIL import Image


def test_a_folder_with_splits(run: Run, tmp_path: Path) -> None:
    for number, name in enumerate(
        ["train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/cat/2.png", "val/dog/1.png"]
    ):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), 10 + number, dtype=np.uint8)).save(path)
    (tmp_path / "set" / "notes.txt").write_text("")
    outcome = run("inspect", tmp_path / "set", "--format", "json")
    assert outcome.code == 0, outcome.err
    table = json.loads(outcome.out)
    table = table[0] if isinstance(table, list) else table
    assert table["rows"] == [{"class": "cat", "images": 2}, {"class": "dog", "images": 1}]
    assert table["notes"] == [
        "format: folders; splits: train 2, val 3; shown: val, 3 images",
        "images 3x6x5 uint8, pixels 12 to 14",
        "left out: files that aren't images: 1 (.txt 1)",
    ]
    assert "using val" in outcome.err and run("inspect", f"{tmp_path / 'set'}:train").code == 0


def test_names_arrays_and_our_own_files(run: Run, files: Path, tmp_path: Path) -> None:
    digits = run("inspect", "digits:train")
    assert digits.code == 0 and "shown: train, 1348 images" in " ".join(digits.out.split())
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 8, 8), np.float32), labels=np.arange(4))
    outcome = run("inspect", tmp_path / "d.npz", "--format", "csv")
    assert outcome.code == 0 and outcome.out.splitlines() == ["class,images", "0,1", "1,1", "2,1", "3,1"]
    np.savez(tmp_path / "e.npz", images=np.full((4, 8, 8), 255.0), labels=np.arange(4))
    assert run("inspect", tmp_path / "e.npz").err.count("--pixel-range 0,255") == 1
    assert run("inspect", tmp_path / "e.npz", "--pixel-range", "0,255").code == 0
    model = files / "model.safetensors"
    assert run("inspect", model).code == 0 and run("inspect", model, "--data-root", tmp_path).code == 0
    for option, value in (("--size", 8), ("--layout", "nhwc"), ("--pixel-range", "0,255")):
        refused = run("inspect", model, option, value)
        assert refused.code == 1 and refused.out == ""
        line = f"{option} applies to data, and {model} is an fmtool file: leave the option out"
        assert refused.err == f"fmtool: error: {line}\n"
    mixed = run("inspect", files / "model.safetensors", tmp_path / "d.npz")
    assert mixed.code == 1 and "is data, which inspect shows alone" in mixed.err
    assert run("inspect", tmp_path / "nothing").code == 1
