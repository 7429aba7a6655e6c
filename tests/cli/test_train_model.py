"""fmtool train-model: each option reaches the stage, and test images are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import only_row
from conftest import Run
from safetensors.torch import save_file
from stage_calls import Called, defaults

import fmtool
from fmtool.cli.train_model import AUGMENTATIONS, RECIPES
from fmtool.models import training
from fmtool.stages.train_model import train_model


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


FROM = ("--data", "digits", "--limit", 8)
OPTIONS = (
    "--test-data digits:all --architecture resnet8 --from model --head-only --recipe head --epochs 3 --learning-rate 0.25 "
    "--batch-size 16 --augment crop --seed 4 --device cpu --no-compile --factory a:b --factory-option width=3 --restart"
)


def test_every_option_reaches_the_stage(called: Called, tmp_path: Path) -> None:
    (data, test), options = called(
        "train_model", *FROM, *OPTIONS.split(), "-o", tmp_path / "model",
    )  # fmt: skip
    execution = fmtool.Execution(
        device="cpu", factory="a:b", factory_options={"width": 3}, output=str(tmp_path / "model"), restart=True
    )
    assert options == {
        "architecture": "resnet8", "from_": "model", "head_only": True, "recipe": "head", "epochs": 3,
        "learning_rate": 0.25, "batch_size": 16, "augment": "crop", "seed": 4, "compile_": False, "execution": execution,
    }  # fmt: skip
    assert (data.split, len(data)) == ("train", 8) and len(test) == 1797


def test_defaults_are_the_stages_own(called: Called, tmp_path: Path) -> None:
    _, options = called("train_model", *FROM, "-o", tmp_path / "model")
    execution = options.pop("execution")
    assert options == defaults(train_model)
    assert execution == fmtool.Execution(output=str(tmp_path / "model"), factory_options={})


@pytest.mark.parametrize(
    ("source", "size"), [("digits", 449), ("digits:train", 449), ("digits:test", None), ("digits:all", None)]
)
def test_the_test_split_is_found_where_training_images_are_the_train_split(
    source: str, size: int | None, called: Called, tmp_path: Path
) -> None:
    """--limit is for the training images alone."""
    (data, test), _ = called("train_model", "--data", source, "--limit", 8, "-o", tmp_path / "model")
    assert len(data) == 8 and (None if test is None else len(test)) == size


def test_names_that_are_offered_are_those_of_the_tables() -> None:
    """They stand in the command line a second time, as the tables import torch."""
    assert set(RECIPES) == set(training.RECIPES) and set(AUGMENTATIONS) == set(training.AUGMENTATIONS)


@pytest.mark.parametrize("option", ["--from", "--test-data"])
def test_an_empty_name_is_no_missing_one(option: str, run: Run, tmp_path: Path) -> None:
    """As an unset variable of a shell gives it: another network would be trained."""
    outcome = run("train-model", "--data", "digits", option, "", "--epochs", 1, "-o", tmp_path / "x")
    assert outcome.code == 1 and outcome.err.startswith("fmtool: error: ") and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("splits", "told"), [("train test", "trained without test images"), ("train test val", "tested on val")]
)
def test_a_test_split_whose_labels_are_kept_back_is_not_needed(
    splits: str, told: str, run: Run, tmp_path: Path
) -> None:
    """As in the Hugging Face form of ImageNet and others."""
    digits = fmtool.load_data("digits:train", limit=20)
    arrays = {}
    for split in splits.split():
        arrays |= {f"x_{split}": digits.pixels().numpy(), f"y_{split}": digits.labels.numpy()}
    arrays["y_test"] = np.full(20, -1)
    for name in [name for name in arrays if name.startswith("x_") and name != "x_train"]:
        arrays[name] = arrays[name] * (0.9 if name == "x_test" else 0.8)
    np.savez(tmp_path / "some.npz", **arrays)
    line = [
        "train-model",
        "--data",
        tmp_path / "some.npz",
        "--epochs",
        1,
        "--architecture",
        "resnet8",
        "-o",
        tmp_path / "model",
    ]
    outcome = run(*line, "--format", "json")
    assert outcome.code == 0 and f"test has no labels, all are -1: expected labelled images; {told}" in outcome.err, (
        outcome.err
    )
    assert (only_row(outcome)["test accuracy %"] is None) == ("val" not in splits)
    outcome = run(*line, "--test-data", f"{tmp_path}/some.npz:test", "--restart")
    assert outcome.code == 1 and "test has no labels" in outcome.err
