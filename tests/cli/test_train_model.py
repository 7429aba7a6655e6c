"""fmtool train-model: each option reaches the stage, and test images are found."""

from __future__ import annotations

from pathlib import Path

import torch
from command_lines import only_row
from conftest import Run
from safetensors.torch import save_file

import fmtool


def test_head_of_a_small_network_is_trained_alone(run: Run, files: Path, tmp_path: Path) -> None:
    """On three of the ten classes."""
    digits = fmtool.load_data("digits:train")
    few = digits.labels < 3
    meta = {"class_names": '["zero", "one", "two"]'}
    save_file({"images": digits.images[few], "labels": digits.labels[few]}, tmp_path / "few.safetensors", meta)
    line = ["train-model", "--from", files / "model.safetensors", "--head-only", "--data", tmp_path / "few.safetensors"]
    line += ["--test-data", tmp_path / "few.safetensors", "--epochs", 10, "-o", tmp_path / "head", "--format", "json"]
    row = only_row(run(*line))
    assert row["classes"] == 3 and float(str(row["test accuracy %"])) >= 95
    old, new = fmtool.read(str(files / "model.safetensors")), fmtool.read(str(tmp_path / "head"))
    changed = {name for name in old.tensors if not torch.equal(old[name], new[name])}
    assert changed == {"linear.bias", "linear.weight"}
    assert [stage["command"] for stage in new.history] == ["train-model", "train-model"]
    assert new.input_digest("model") == old.digest
