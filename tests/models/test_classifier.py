"""Checkpoints are read without running code and fill the network that they fit; folding changes no answer."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fmtool
from fmtool.errors import ModelError
from fmtool.models.checkpoints import (  # fmt: skip
    Specification,
    build,
    from_artifact,
    last_layer,
    load_weights,
    outputs_of,
    read_weights,
    replace_head,
    specification,
    to_artifact,
    with_head,
)
from fmtool.models.classifier import Classifier, batch_size, pick_device, predict, prepare
from fmtool.models.registry import ARCHITECTURES

CPU = torch.device("cpu")


def _resnet8(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES["resnet8"].build(1, outputs)


# Reading checkpoints -------------------------------------------------------------------------------------------------


def test_published_checkpoint_fills_resnet20(shared_data: Path) -> None:
    path = str(shared_data / "resnet20-12fca82f.th")
    raw = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert all(name.startswith("module.") for name in raw)
    weights, network = read_weights(path), ARCHITECTURES["resnet20"].build(3, 10)
    assert {f"module.{name}" for name in weights} == raw.keys()
    load_weights(network, weights, path)
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722  # as A.2 has it: 0.27 million
    assert all(
        torch.equal(tensor, raw[f"module.{name}"]) for name, tensor in network.state_dict().items() if name in weights
    )


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".safetensors"])
@pytest.mark.parametrize("nested", ["", "state_dict", "model", "model_state_dict"])
def test_state_dicts_are_found_where_people_put_them(suffix: str, nested: str, tmp_path: Path) -> None:
    weights = dict(_resnet8().state_dict())
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        found: Any = OrderedDict((f"module.{name}" if nested else name, tensor) for name, tensor in weights.items())
        if nested:
            found = {"epoch": 3, "best": 0.5, "args": [1, "two", None], nested: found}
        torch.save(found, path)
    read = read_weights(str(path))
    assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)


def test_old_pickles_from_before_zip_files_are_read(tmp_path: Path) -> None:
    weights = _resnet8().state_dict()
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    read = read_weights(str(tmp_path / "old.pth"))
    assert all(torch.equal(read[name], weights[name]) for name in weights)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], 7, {"state_dict": {}}, {"a": torch.ones(1), "b": 2}])
def test_pickle_without_a_state_dict_is_told(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ModelError, match=r"checkpoint.pth: holds no state dict, expected parameter names with tensors"):
        read_weights(str(tmp_path / "checkpoint.pth"))


class _Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


class _Evaluate(_Touch):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("harm", "offender"), [(_Touch, rf"{os.system.__module__}\.system"), (_Evaluate, r"(builtins\.)?eval")]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_pickle_that_would_run_code_is_refused_and_does_not_run(
    zipped: bool, harm: type[_Touch], offender: str, hidden: bool, tmp_path: Path
) -> None:
    harmful: Any = harm(tmp_path / "ran")
    content = {"state_dict": {**_resnet8().state_dict(), "extra": harmful}} if hidden else harmful
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError) as caught:
        read_weights(str(path))
    told = rf"{path}: refused, unpickling it would run code \({offender}\): expected a state dict of tensors"
    assert re.fullmatch(told, str(caught.value))
    assert list(tmp_path.iterdir()) == [path]
    torch.load(path, weights_only=False)  # the file is as harmful as it is meant to be
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "offender"),
    [(nn.Linear(2, 2), "torch.nn.modules.linear.Linear"), ({"best": np.float64(0.5)}, "numpy.*scalar")],
)
def test_pickle_of_anything_but_tensors_names_what_it_holds(content: object, offender: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ModelError, match=rf"checkpoint.pth: refused, .*\({offender}\)"):
        read_weights(str(tmp_path / "checkpoint.pth"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_torch_did_not_write_is_refused_likewise(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(pickle.dumps(_Touch(tmp_path / "ran"), protocol))
    assert b"system" in (tmp_path / "checkpoint.pth").read_bytes()
    told = rf"checkpoint.pth: refused, unpickling it would run code \({os.system.__module__}\.system\)"
    with pytest.raises(ModelError, match=told):
        read_weights(str(tmp_path / "checkpoint.pth"))
    assert not (tmp_path / "ran").exists()


def test_every_truncation_of_a_pickle_is_told(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(6.0)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(content) - 1, 37):
        (tmp_path / "part.pth").write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"part.pth: not a checkpoint"):
            read_weights(str(tmp_path / "part.pth"))


def test_weights_that_do_not_fit_are_named() -> None:
    weights = dict(_resnet8().state_dict())
    weights["linear.weight"] = torch.zeros(7, 32)
    del weights["conv1.weight"], weights["bn1.bias"]
    for number in range(4):
        weights[f"strange{number}"] = torch.zeros(1)
    with pytest.raises(ModelError) as caught:
        load_weights(_resnet8(), weights, "FILE")
    assert str(caught.value) == (
        "FILE: the weights don't fit the architecture: missing conv1.weight, bn1.bias; "
        "unexpected strange0, strange1, strange2, ...; shape linear.weight [7, 32] for [10, 32]"
    )


def test_counters_that_nothing_reads_may_be_missing() -> None:
    weights = {name: tensor for name, tensor in _resnet8(5).state_dict().items() if "num_batches" not in name}
    network = _resnet8(5)
    nn.init.zeros_(network.linear.weight)  # type: ignore[arg-type]
    load_weights(network, weights, "FILE")
    assert torch.equal(network.linear.weight, weights["linear.weight"])  # type: ignore[arg-type]


def test_number_of_outputs_is_told_by_the_last_layer() -> None:
    assert outputs_of(_resnet8(7).state_dict(), _resnet8()) == 7
    assert outputs_of({}, _resnet8()) is None
    no_linear = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert outputs_of(no_linear.state_dict(), no_linear) is None


# Model files ---------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ModelError, match="gave NoneType"):
        build(spec, factory="their_networks_a:make")
    assert (tmp_path / "ran").exists() and str(tmp_path) not in sys.path


# The classifier ------------------------------------------------------------------------------------------------------


def test_normalisation_and_kept_classes_are_inside_the_model() -> None:
    network = _resnet8().eval()
    images = torch.rand(3, 1, 8, 8)
    classifier = Classifier(network, [0.25], [0.5], [7, 2]).eval()
    expected = network((images - 0.25) / 0.5)[:, [7, 2]]
    assert torch.allclose(classifier(images), expected, rtol=1e-5, atol=1e-6)
    assert classifier.network.state_dict().keys() == network.state_dict().keys()


def test_prepared_classifier_is_frozen_and_apart() -> None:
    classifier = Classifier(_resnet8())
    ready = prepare(classifier, CPU, (1, 8, 8))
    assert not ready.training and not any(parameter.requires_grad for parameter in ready.parameters())
    assert classifier.training and all(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 33, 31), (3, 224, 224), (3, 2000, 2000)])
def test_batch_size_hangs_on_shape_and_kind_of_device_alone(shape: tuple[int, int, int]) -> None:
    size = batch_size(shape, CPU)
    assert size == batch_size(shape, torch.device("cpu", 0)) and size & (size - 1) == 0 and 8 <= size <= 256
    assert size <= batch_size(shape, torch.device("cuda")) == batch_size(shape, torch.device("cuda", 3)) <= 2048
    if shape == (3, 32, 32):
        assert size == 32


def test_prediction_of_an_image_hangs_on_that_image_alone() -> None:
    classifier = prepare(Classifier(_resnet8()), CPU, (1, 8, 8))
    images = fmtool.load_data("digits", limit=21).pixels()
    together = predict(classifier, images, 8, CPU)
    assert together.dtype == torch.int64 and len(together) == 21 and len(together.unique()) > 1
    assert torch.equal(together, torch.cat([predict(classifier, images[k : k + 1], 8, CPU) for k in range(21)]))
    assert len(predict(classifier, images[:0], 8, CPU)) == 0


def test_strict_float32_on_every_device() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    assert pick_device("cpu") == CPU
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta:x", ""])
def test_unknown_device_is_told(name: str) -> None:
    with pytest.raises(ModelError, match=f"--device {name}: expected auto, cpu, or a GPU"):
        pick_device(name)


# The last layer ------------------------------------------------------------------------------------------------------


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


def test_network_without_a_linear_layer_has_no_head_to_replace() -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        last_layer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))
    inner = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert replace_head(nn.Sequential(inner), 5) == "0.0" and inner[0].out_features == 5
