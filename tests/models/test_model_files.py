"""A model file is the model: what is built from the file alone is the network that was written."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fmtool
from fmtool.errors import ModelError
from fmtool.models import networks
from fmtool.models.classifier import Classifier, predict, prepare
from fmtool.models.model_files import (
    Specification,
    build,
    check_output,
    from_artifact,
    specification,
    to_artifact,
    with_head,
)
from fmtool.models.registry import ARCHITECTURES

CPU = torch.device("cpu")


def _resnet8(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES["resnet8"].build(1, outputs)


@pytest.mark.slow
def test_model_file_gives_the_same_classifier(files: Path) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    classifier, spec = from_artifact(model)
    again = to_artifact(classifier, spec, model.history)
    assert again.digest == model.digest and not classifier.training
    digits = fmtool.load_data("digits:test")
    found = predict(prepare(classifier, CPU, (1, 8, 8)), digits.pixels(), 64, CPU)
    assert float((found == digits.labels).double().mean()) == model.header["accuracy"] > 0.9


@pytest.mark.parametrize("field", ["input_shape", "class_names", "architecture"])
def test_damaged_model_header_is_told(field: str, files: Path) -> None:
    header = dict(fmtool.read(str(files / "model.safetensors")).header)
    for wrong in (None, 3, []):
        with pytest.raises(ModelError, match="FILE: its model header is damaged"):
            specification({**header, field: wrong}, "FILE")


def test_tied_weights_survive(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    network[2].weight = network[1].weight
    spec = Specification("resnet8", 4, (1, 2, 2), tuple("abcd"))
    fmtool.write(to_artifact(Classifier(network), spec, []), str(tmp_path / "file"))
    assert torch.equal(fmtool.read(str(tmp_path / "file"))["2.weight"], network[1].weight)


def test_model_file_that_names_a_factory_does_not_import_it(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_networks_a.py").write_text("open('ran', 'w').close()\ndef make(): ...\n")
    monkeypatch.chdir(tmp_path)
    spec = Specification("their_networks_a:make", 10, (1, 8, 8), tuple("0123456789"))
    for factory in (None, "their_networks_a:other", "resnet8"):
        with pytest.raises(
            ModelError, match=r"built by their_networks_a:make, .* repeat --factory their_networks_a:make"
        ):
            build(spec, factory=factory)
    assert "their_networks_a" not in sys.modules and not (tmp_path / "ran").exists()
    with pytest.raises(ModelError, match="returned NoneType"):
        build(spec, factory="their_networks_a:make")
    assert (tmp_path / "ran").exists() and sys.path[-1] == str(tmp_path)


def test_head_is_replaced_in_place_and_survives_the_file(tmp_path: Path) -> None:
    classifier = Classifier(_resnet8(), keep_classes=[1, 2])
    spec = Specification("resnet8", 10, (1, 8, 8), ("a", "b"), keep_classes=(1, 2), accuracy=0.5)
    new = with_head(classifier, spec, ["x", "y", "z"])
    assert new.head == {"layer": "linear", "classes": 3} and new.outputs == 10
    assert new.keep_classes is None and new.accuracy is None and new.class_names == ("x", "y", "z")
    fmtool.write(to_artifact(classifier, new, []), str(tmp_path / "file"))
    again, found = from_artifact(fmtool.read(str(tmp_path / "file")))
    assert found == new
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(images), classifier.eval()(images)) and again(images).shape == (2, 3)


def test_a_regnet_with_a_new_head_can_be_read() -> None:
    """It can't be built without values, and its file is known by its number of outputs, which is the head's."""
    network = networks.build_network("regnet_x_400mf", 3, 1000)
    classifier, shape = Classifier(network), (3, 32, 32)
    spec = Specification("regnet_x_400mf", 1000, shape, tuple(map(str, range(1000))))
    new = with_head(classifier, spec, ["x", "y", "z"])
    model = to_artifact(classifier, new, [])
    again, found = from_artifact(model)
    assert found == new and again(torch.rand(2, *shape)).shape == (2, 3)
    kept = {name: value for name, value in model.header.items() if name != "head"}
    with pytest.raises(ModelError, match="the weights don't fit the architecture: none has 1000 outputs"):
        from_artifact(dataclasses.replace(model, header={**kept, "class_names": list(spec.class_names)}))


def test_a_network_that_standardises_each_image_is_taken() -> None:
    """And is not tried on images of one colour, of which it makes NaN."""

    class Standardising(nn.Flatten):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = super().forward(images)
            spread = rows.std(1, keepdim=True)
            if bool((spread == 0).any()):
                raise ValueError("constant image")
            return (rows - rows.mean(1, keepdim=True)) / spread

    classifier = Classifier(nn.Sequential(Standardising(), nn.Linear(64, 2)))
    check_output(classifier, Specification("a:b", 2, (1, 8, 8), ("x", "y")), 2)
