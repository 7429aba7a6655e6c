"""A statistic, attack, data set, architecture, figure or mask basis is one new file and one line in a registry."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Run
from sklearn.datasets import load_digits
from torch import nn

import fmtool
from fmtool.attacks.registry import ATTACKS, Known
from fmtool.correlation.registry import STATISTICS, StatisticKind
from fmtool.datasets.registry import DATASETS
from fmtool.datasets.source import Source, Split
from fmtool.masks.registry import BASES
from fmtool.models.registry import ARCHITECTURES, Architecture
from fmtool.plotting.registry import FIGURES

Add = Callable[[str, str, str], None]

STATISTIC = '''
import torch

from fmtool.correlation.statistics.base import Prepared, require_rows


def prepare(x, y, options):
    """1 less the mean distance between entries of a pair."""
    require_rows("agreement", len(x), 2)

    def shuffled(permutation):
        return 1 - float((x - y[permutation]).abs().mean())

    return Prepared(shuffled(torch.arange(len(x))), {"columns": float(x.shape[1])}, {}, shuffled)
'''
BASIS = '''
from fmtool.masks.bases.pixels import Pixels


class Upside(Pixels):
    """The pixels of the image turned upside down."""

    def analyse(self, images):
        return images.flip(-2)

    def synthesise(self, masks, coefficients):
        return (masks * coefficients).flip(-2)
'''
ATTACK = '''
import eagerpy
from foolbox.attacks.base import MinimizationAttack
from foolbox.distances import linf


class Negative(MinimizationAttack):
    """Move every pixel towards its negative."""

    distance = linf

    def __init__(self, *, strength=1.0):
        self.strength = strength

    def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
        images, restore = eagerpy.astensor_(inputs)
        return restore(images + self.strength * (1 - 2 * images))
'''
FIGURE = '''
from matplotlib.figure import Figure


def steps(files):
    """How many steps the masks took."""
    figure = Figure()
    figure.subplots().hist(files[0]["steps"].numpy())
    return figure
'''


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Put a new file of this name and text into a package."""
    modules = []

    def call(package: str, name: str, text: str) -> None:
        folder = tmp_path / "added" / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        home = importlib.import_module(package)
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
        importlib.invalidate_caches()
        modules.append(f"{package}.{name}")

    yield call
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.slow
def test_a_statistic(add: Add, files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("fmtool.correlation.statistics", "agreement", STATISTIC)
    monkeypatch.setitem(STATISTICS, "agreement", StatisticKind("Agreement", "1 less the mean distance of entries"))
    sides, target, picture = (
        [files / "essential.safetensors", files / "adversarial.safetensors"],
        tmp_path / "correlation.safetensors",
        tmp_path / "null.svg",
    )
    line = ["correlate", *sides, "--statistics", "agreement,svcca", "--permutations", 9, "--subsample", "20"]
    outcome = run(*line, "--draws", 2, "-o", target, "--format", "json")
    assert outcome.code == 0, outcome.err
    main, curve = json.loads(outcome.out)
    row = main["rows"][0]
    assert row["statistic"] == "agreement" and 0.5 < row["observed"] < 1 and row["p"] >= 0.1
    assert [one["observed"] for one in curve["rows"] if one["statistic"] == "agreement"][-1] == row["observed"]
    shown = run("inspect", target)
    assert shown.code == 0 and "agreement: columns 64" in shown.out
    two = run("inspect", target, files / "correlation.safetensors", "--format", "csv")
    assert two.code == 0 and "Agreement,agreement null" in two.out.splitlines()[0]
    for figure in ("null", "subsample"):
        assert run("plot", target, "--figure", figure, "-o", picture).code == 0
        assert "Agreement" in picture.read_text()  # SVG has its words in comments above the letters' outlines
    page = tmp_path / "page.html"
    assert run("report", target, "-o", page).code == 0 and "agreement" in page.read_text()
    assert run("verify", target, *sides, files / "fmn.safetensors", files / "model.safetensors").code == 0


def test_a_file_with_a_statistic_that_this_version_lacks_is_read(
    add: Add, files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("fmtool.correlation.statistics", "agreement", STATISTIC)
    target = tmp_path / "correlation.safetensors"
    with monkeypatch.context() as patch:
        patch.setitem(STATISTICS, "agreement", StatisticKind("Agreement", "1 less the mean distance of entries"))
        sides = [fmtool.read(str(files / f"{name}.safetensors")) for name in ("essential", "adversarial")]
        fmtool.write(fmtool.correlate(*sides, statistics=["agreement", "svcca"], permutations=3), str(target))
    two = run("inspect", target, files / "correlation.safetensors", "--format", "csv")
    assert two.code == 0 and "agreement (unknown statistic)" in two.out.splitlines()[0]
    assert run("plot", target, "-o", tmp_path / "null.svg").code == 0
    asked = run(
        "correlate", files / "essential.safetensors", files / "adversarial.safetensors", "--statistics", "agreement"
    )
    assert asked.code == 1 and "unknown statistic 'agreement'" in asked.err


@pytest.mark.slow
def test_an_attack(add: Add, files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("fmtool.attacks", "negative", ATTACK)
    monkeypatch.setitem(ATTACKS, "negative", Known("negative:Negative", "Photographic negative", bounded=False))
    target = tmp_path / "attack.safetensors"
    line = ["attack", files / "model.safetensors", "--data", "digits", "--limit", 20, "--attack", "negative"]
    outcome = run(*line, "-o", target)
    assert outcome.code == 0 and "Photographic negative" in outcome.out, outcome.err
    made = fmtool.read(str(target), "attack")
    ok = made["status"] != 1
    assert bool(ok.any()) and torch.equal(made["adversarial"][ok], 1 - made["images"][ok])
    assert made.header["options"]["strength"] == 1.0
    half = run(*line, "--attack-option", "strength=0.5", "-o", target)
    assert half.code == 0 and fmtool.read(str(target))["adversarial"][ok].unique().tolist() == [0.5]
    assert run(*line, "--attack-option", "force=1", "-o", target).err.count("\n") == 1
    masks = tmp_path / "masks.safetensors"
    few = ["--min-steps", 3, "--max-steps", 5, "-o", masks]
    assert run(*line, "-o", target).code == 0
    fitted = run("fit-masks", files / "model.safetensors", target, "--for", "adversarial", *few)
    assert fitted.code == 0 and "Photographic negative" in fitted.out, fitted.err
    assert run("plot", target, "-o", tmp_path / "attack.png").code == 0
    assert run("verify", target, masks, files / "model.safetensors").code == 0


@pytest.mark.slow
def test_a_data_set(files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, numbers = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 20, torch.from_numpy(numbers).long()

    def dim(root: Path | None) -> Source:
        splits = {"train": Split(images[:60], labels[:60]), "test": Split(images[60:], labels[60:])}
        return Source(splits, tuple("0123456789"))

    monkeypatch.setitem(DATASETS, "dim", replace(DATASETS["digits"], load=dim, summary="digits, not so bright"))
    model, target = tmp_path / "model.safetensors", tmp_path / "attack.safetensors"
    trained = run("train-model", "--data", "dim", "--architecture", "resnet8", "--epochs", 1, "-o", model)
    assert trained.code == 0, trained.err
    outcome = run("attack", files / "model.safetensors", "--data", "dim:train", "--limit", 20, "-o", target)
    assert outcome.code == 0, outcome.err
    made = fmtool.read(str(target), "attack")
    assert made.header["data"] == [{"name": "dim", "split": "train"}] and len(made["labels"]) == 20
    assert float(made["images"].max()) == pytest.approx(0.8)
    assert "--data dim:train" in run("inspect", target, "--history").out


def test_an_architecture(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def linear(channels: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, outputs))

    monkeypatch.setitem(ARCHITECTURES, "linear", Architecture(linear, "one layer, for 8x8 images"))
    model, target = tmp_path / "model.safetensors", tmp_path / "attack.safetensors"
    trained = run("train-model", "--data", "digits", "--architecture", "linear", "--epochs", 1, "-o", model)
    assert trained.code == 0 and "linear" in trained.out, trained.err
    imported = run("import-model", "linear", "--weights", model, "--input-shape", "1,8,8", "-o", tmp_path / "again")
    assert imported.code == 0, imported.err
    assert run("attack", model, "--data", "digits", "--limit", 5, "-o", target).code == 0


def test_a_figure(add: Add, files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("fmtool.plotting", "histograms", FIGURE)
    of_masks = replace(FIGURES["masks"], function="histograms:steps", text="steps of masks", images=False)
    monkeypatch.setitem(FIGURES, "steps", of_masks)
    target = tmp_path / "steps.png"
    outcome = run("plot", files / "essential.safetensors", "--figure", "steps", "-o", target)
    assert outcome.code == 0 and target.read_bytes().startswith(b"\x89PNG"), outcome.err


@pytest.mark.slow
def test_a_mask_basis(add: Add, files: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("fmtool.masks.bases", "upside", BASIS)
    monkeypatch.setitem(BASES, "upside", "upside:Upside")
    masks = {}
    for name in ("upside", "pixels"):
        masks[name] = tmp_path / f"{name}.safetensors"
        options = ["--basis", name, "--limit", 6, "--min-steps", 5, "--max-steps", 5, "--no-compile"]
        fitted = run("fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", *options,
                     "-o", masks[name])  # fmt: skip
        assert fitted.code == 0, fitted.err
    upside, pixels = (fmtool.read(str(file), "masks") for file in masks.values())
    torch.testing.assert_close(upside["masks"].flip(-2), pixels["masks"])
    assert "--basis upside" in run("inspect", masks["upside"], "--history").out
    checked = run("check-masks", files / "model.safetensors", files / "fmn.safetensors", masks["upside"], "--draws", 1)
    assert checked.code == 0 and "lowest frequencies" not in checked.out, checked.err
    assert run("plot", masks["upside"], "-o", tmp_path / "masks.png").code == 0
    refused = run("correlate", *masks.values())
    assert refused.code == 1 and "in different bases, upside and pixels" in refused.err
