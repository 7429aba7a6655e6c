"""RobustBench's networks by name: with the package itself where it can be imported, and with a stand-in of its interface."""

from __future__ import annotations

import enum
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from torch import nn

import fmtool
from fmtool.errors import ModelError
from fmtool.models.model_files import from_artifact
from fmtool.models.robustbench_networks import load_robustbench

NAME, FOLDER = "Hendrycks2020AugMix_WRN", Path("models/cifar10/corruptions")


class Dataset(enum.Enum):
    cifar_10, cifar_100, imagenet = "cifar10", "cifar100", "imagenet"


class Threat(enum.Enum):
    linf, corruptions = "Linf", "corruptions"


class Small(nn.Module):
    """Normalises inside, as RobustBench's networks do."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(4, outputs)
        self.register_buffer("mu", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv((x - self.mu) / 0.25).relu().mean(dim=(2, 3)))


def entry(outputs: int, gdrive_id: str | None = "id", **more: Any) -> dict[str, Any]:
    return {"model": lambda: Small(outputs), "gdrive_id": gdrive_id, **more}


def stand_in() -> types.ModuleType:
    """A module with what fmtool reads of `robustbench.utils`."""
    utils: Any = types.ModuleType("robustbench.utils")
    utils.DATASET_CLASSES = {Dataset.cifar_10: 10, Dataset.cifar_100: 100, Dataset.imagenet: 1000}
    utils.all_models = {
        Dataset.cifar_10: {Threat.linf: {"Standard": entry(10)}, Threat.corruptions: {NAME: entry(10)}},
        Dataset.cifar_100: {Threat.corruptions: {NAME: entry(100)}},
        Dataset.imagenet: {
            Threat.linf: {
                "Standard_R50": entry(1000, ""),
                "Peng2023Robust": entry(1000, preprocessing="Crop288"),
                "Wide": entry(1000, preprocessing="BicubicRes256Crop224"),
            }
        },
    }
    utils.timm = types.SimpleNamespace(is_model=lambda name: False)

    def load_model(name: str, *, dataset: str, threat_model: str) -> nn.Module:
        print("Downloading")  # as RobustBench does, to standard output
        network: nn.Module = utils.all_models[Dataset(dataset)][Threat(threat_model)][name]["model"]()
        state = torch.load(Path("models") / dataset / threat_model / f"{name}.pt")["state_dict"]
        network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
        return network.eval()

    utils.load_model = load_model
    return utils


Load = Callable[[], Any]  # gives `robustbench.utils`


@pytest.fixture(params=["package", "stand-in"])
def robustbench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    monkeypatch.chdir(tmp_path)
    if request.param == "stand-in":
        utils = stand_in()
        package: Any = types.ModuleType("robustbench")
        package.utils = utils
        monkeypatch.setitem(sys.modules, "robustbench", package)
        monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    else:
        try:
            load_robustbench()
        except ModelError as error:
            pytest.skip(str(error))
    return load_robustbench


def test_the_model_file_gives_robustbenchs_own_logits(robustbench: Load, run: Run, tmp_path: Path) -> None:
    utils = robustbench()
    torch.manual_seed(3)
    (table,) = [threats for dataset, threats in utils.all_models.items() if dataset.value == "cifar10"]
    (networks,) = [networks for threat, networks in table.items() if threat.value == "corruptions"]
    drawn = networks[NAME]["model"]().state_dict()
    FOLDER.mkdir(parents=True)
    torch.save({"state_dict": {f"module.{key}": value for key, value in drawn.items()}}, FOLDER / f"{NAME}.pt")
    outcome = run("import-model", f"robustbench:{NAME}", "-o", "model", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "the one for cifar10 corruptions is taken" in outcome.err and "(cifar100 corruptions)" in outcome.err
    assert outcome.err.count("is taken") == 1
    (row,) = json.loads(outcome.out)["rows"]
    assert (row["input"], row["classes"], row["normalises"]) == ("3x32x32", 10, False)
    model = fmtool.read("model")
    assert model.header["arguments"] == {"dataset": "cifar10", "threat_model": "corruptions"}
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        own = utils.load_model(NAME, dataset="cifar10", threat_model="corruptions")
        torch.testing.assert_close(from_artifact(model)[0](images), own(images), rtol=1e-6, atol=1e-6)
    again = run("import-model", f"robustbench:{NAME}", "--factory-option", "dataset=cifar10", "-o", "again")
    assert again.code == 0 and "is taken" not in again.err
    assert Path("again").read_bytes() == Path("model").read_bytes()
    checkpoint = FOLDER / f"{NAME}.pt"
    filled = run("import-model", checkpoint, "--architecture", f"robustbench:{NAME}", "-o", "filled")
    assert filled.code == 0, filled.err
    assert all(torch.equal(fmtool.read("filled")[name], tensor) for name, tensor in model.tensors.items())


def test_fresh_networks_and_what_is_refused(robustbench: Load, run: Run) -> None:
    fresh = run("import-model", f"robustbench:{NAME}", "--weights", "none", "-o", "fresh", "--seed", 4)
    assert fresh.code == 0, fresh.err
    option = "--factory-option"
    outcome = run("import-model", f"robustbench:{NAME}", option, "dataset=imagenet", "-o", "model")
    assert outcome.code == 1 and "no network for dataset=imagenet, only for cifar10 corruptions" in outcome.err
    outcome = run("import-model", f"robustbench:{NAME.lower()}", "-o", "model")
    assert outcome.code == 1 and f"(did you mean {NAME!r}?)" in outcome.err
    outcome = run("import-model", f"robustbench:{NAME}", option, "threat=L2", "-o", "model")
    assert outcome.code == 1 and "did you mean 'threat_model'?" in outcome.err
    outcome = run("import-model", "robustbench:Standard_R50", option, "threat_model=Linf", "-o", "model")
    assert outcome.code == 1 and "is a network of torchvision" in outcome.err
    line = ["import-model", f"robustbench:{NAME}", "--weights", "none", option, "dataset=cifar10"]
    outcome = run(*line, "--mean", "0.5,0.5,0.5", "--std", "1,1,1", "-o", "model")
    assert outcome.code == 0 and "normalises its images itself" in outcome.err
    assert run(*line, "--input-shape", "1,32,32", "-o", "model").code == 1


def test_image_sizes_are_those_of_the_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fmtool.models.robustbench_networks import configuration

    package: Any = types.ModuleType("robustbench")
    package.utils = stand_in()
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", package.utils)
    shapes = [configuration(f"robustbench:{name}", {}).input_shape for name in ("Peng2023Robust", "Wide", "Standard")]
    assert shapes == [(3, 288, 288), (3, 224, 224), (3, 32, 32)]


def test_without_the_package_a_line_says_how_to_install_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    outcome = run("import-model", "robustbench:Standard", "-o", tmp_path / "model")
    assert outcome.code == 1 and "install it with pip install robustbench" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
