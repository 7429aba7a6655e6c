"""The stage of training: accuracy, the last layer alone, and requests that can't be met."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import factory

import fmtool
from fmtool.errors import FmtoolWarning, ModelError
from fmtool.models.training import RECIPES
from fmtool.runtime import resume_file


@pytest.mark.slow
def test_trains_to_a_good_accuracy_and_the_same_weights_twice(files: Path) -> None:
    data, test = fmtool.load_data("digits:train", limit=600), fmtool.load_data("digits:test")
    options = {"architecture": "resnet8", "recipe": "one-cycle", "epochs": 8, "learning_rate": 0.05, "batch_size": 32}
    one, two = (fmtool.train_model(data, test, **options) for _ in range(2))  # type: ignore[arg-type]
    assert one.digest == two.digest
    assert one.header["accuracy"] > 0.9
    other = fmtool.train_model(data, test, seed=1, **options)  # type: ignore[arg-type]
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.slow
def test_head_only_replaces_the_last_layer_and_leaves_the_rest(files: Path) -> None:
    """A model of other classes: the digits' parity, learned by a new last layer alone, batch-norm statistics untouched."""
    model = fmtool.read(str(files / "model.safetensors"))
    data = fmtool.load_data("digits:train", limit=400)
    parity = dataclasses.replace(data, labels=data.labels % 2, class_names=("even", "odd"))
    made = fmtool.train_model(parity, parity, from_=model, head_only=True)
    assert made.header["class_names"] == ["even", "odd"]
    assert made.header["head"] == {"layer": "linear", "classes": 2}
    assert made.header["accuracy"] > 0.75
    for name, tensor in model.tensors.items():
        if not name.startswith("linear"):
            assert torch.equal(made[name], tensor), name
    assert made["linear.weight"].shape[0] == 2
    again = fmtool.attack(made, parity, attack="LinfFastGradientAttack", epsilon=0.1)  # it loads and runs
    assert float((again["clean_predictions"] == again["labels"]).double().mean()) == made.header["accuracy"]


def test_training_on_from_a_models_weights(files: Path) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    data = fmtool.load_data("digits:train", limit=200)
    made = fmtool.train_model(data, from_=model, recipe="one-cycle", epochs=1, learning_rate=1e-6)
    torch.testing.assert_close(made["linear.weight"], model["linear.weight"], atol=1e-3, rtol=0)
    assert [stage["command"] for stage in made.history] == ["train-model", "train-model"]
    assert model.header["accuracy"] is not None and made.header["accuracy"] is None


def test_an_odd_test_image_counts_as_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network standardises each image, which divides 0 by 0 in one of a single colour."""
    forward = "x = images.flatten(1)\nreturn self.linear((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))"
    (tmp_path / "standardising.py").write_text(factory(forward))
    monkeypatch.syspath_prepend(tmp_path)
    data, test = (fmtool.load_data(f"digits:{split}", limit=50) for split in ("train", "test"))
    pixels = test.pixels().clone()
    pixels[4] = 0.5
    told = "^1 of 50 images of --test-data give logits that are not finite: they count as wrong$"
    with pytest.warns(FmtoolWarning, match=told):
        made = fmtool.train_model(
            data, dataclasses.replace(test, images=pixels), architecture="standardising:make", epochs=1
        )
    assert 0 <= made.header["accuracy"] <= 0.98


def test_a_double_network_is_trained_in_float32_and_repeats_its_own_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights come from NumPy's generator."""
    text = factory("return self.linear(images.flatten(1))", "import numpy as np")
    text += "\nplain = make\ndef make():\n    network = plain()\n"
    text += "    network.linear.weight.data = torch.from_numpy(np.random.randn(10, 64))\n    return network.double()\n"
    (tmp_path / "doubled.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    data = fmtool.load_data("digits:train", limit=50)
    made = []
    for seed in (0, 0, 1):
        with pytest.warns(FmtoolWarning, match="^the network's weights are float64, and are converted to float32$"):
            made.append(fmtool.train_model(data, architecture="doubled:make", epochs=1, seed=seed))
    assert made[0]["linear.weight"].dtype == torch.float32
    assert made[0].digest == made[1].digest != made[2].digest


def test_impossible_requests(files: Path) -> None:
    data = fmtool.load_data("digits:train", limit=50)
    with pytest.raises(ModelError, match="--head-only needs --from"):
        fmtool.train_model(data, head_only=True)
    with pytest.raises(ModelError, match=r"unknown recipe 'papre' .did you mean 'paper'"):
        fmtool.train_model(data, recipe="papre")
    model = fmtool.read(str(files / "model.safetensors"))
    with pytest.raises(ModelError, match="--head-only replaces"):
        fmtool.train_model(dataclasses.replace(data, class_names=("a", "b"), labels=data.labels % 2), from_=model)
    with pytest.raises(ModelError, match=r"^--architecture: the model of --from has its own; leave it out$"):
        fmtool.train_model(data, architecture="resnet8", from_=model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augment": "flip"},
            r"^unknown --augment 'flip' .did you mean 'flip-crop'..: expected one of crop, flip-crop, none$",
        ),
        ({"learning_rate": 0.0}, r"^--learning-rate 0\.0: expected a number above 0$"),
        ({"epochs": 0}, r"^--epochs 0: expected a number of at least 1$"),
        ({"batch_size": 0}, r"^--batch-size 0: expected a number of at least 1$"),
        ({"learning_rate": float("inf")}, r"^--learning-rate inf: expected a number above 0$"),
        (
            {"execution": fmtool.Execution(factory_options={"width": 1})},
            r"^--factory-option goes with package.module:factory, timm:NAME",
        ),
        (
            {"execution": fmtool.Execution(factory="a:b")},
            r"^--factory goes with --from MODEL; --architecture MODULE:NAME",
        ),
    ],
)
def test_options_that_can_not_be_are_refused_before_the_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fmtool.train_model(fmtool.load_data("digits:train", limit=4), **options)


def test_what_is_recorded_is_what_was_in_effect() -> None:
    """The recipe's own values where nothing overrides them, and what suits the data set."""
    data = fmtool.load_data("digits:train", limit=8)
    made = fmtool.train_model(data, architecture="resnet8", recipe="one-cycle", epochs=1, batch_size=4)
    options = made.history[-1]["options"]
    recipe = RECIPES["one-cycle"]
    assert (options["--epochs"], options["--learning-rate"], options["--batch-size"]) == (1, recipe.learning_rate, 4)
    assert options["--augment"] == "none" and options["--architecture"] == "resnet8" and "--head-only" not in options
    assert made.header["accuracy"] is None and made.header["class_names"] == list("0123456789")


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    data = dataclasses.replace(fmtool.load_data("digits:train", limit=10), class_names=())
    with pytest.warns(FmtoolWarning, match=r"^digits: has no class names: its classes are called 0 to 9$"):
        made = fmtool.train_model(data, architecture="resnet8", recipe="one-cycle", epochs=1)
    assert made.header["class_names"] == [str(number) for number in range(10)]


def test_a_few_images_leave_the_network_all_classes_of_their_data(tmp_path: Path) -> None:
    torch.save({"images": torch.zeros(6, 8, 8, dtype=torch.uint8), "labels": torch.arange(6)}, tmp_path / "d.pt")
    with pytest.warns(FmtoolWarning, match="its classes are called 0 to 5$"):
        some = fmtool.load_data(str(tmp_path / "d.pt"), rows=(0, 3))
        made = fmtool.train_model(some, architecture="resnet8", recipe="one-cycle", epochs=1)
    assert len(made.header["class_names"]) == 6


def test_training_that_diverges_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing to resume from, which would end likewise."""
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0)
    target = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=r"^training diverged by step \d+ of \d+: expected a smaller --learning-rate"):
        fmtool.train_model(
            fmtool.load_data("digits:train", limit=60), architecture="resnet8", epochs=3, batch_size=16, learning_rate=1e30,
            execution=fmtool.Execution(output=str(target)),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_last_layer_alone_takes_no_augmentation_and_is_never_compiled(files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:train", limit=60)
    with pytest.raises(
        ModelError, match=r"^--augment flip-crop: --head-only computes the images' features once, as they are$"
    ):
        fmtool.train_model(data, from_=model, head_only=True, augment="flip-crop")
    with pytest.raises(ModelError, match=r"^--compile: --head-only computes the images' features once, uncompiled$"):
        fmtool.train_model(data, from_=model, head_only=True, compile_=True)
    made = fmtool.train_model(data, from_=model, head_only=True, epochs=1)
    assert made.history[-1]["options"]["--compile"] is False


def test_further_training_takes_data_without_names_by_position(files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:train", limit=60)
    model = dataclasses.replace(model, header={**model.header, "class_names": list("abcdefghij")})
    unnamed = dataclasses.replace(data, class_names=(), labels=data.labels.clamp(max=8))
    made = fmtool.train_model(unnamed, from_=model, epochs=1)
    assert made.header["class_names"] == list("abcdefghij")


FREE = "return self.linear(images.flatten(1))"


@pytest.mark.parametrize(
    ("forward", "made", "message"),
    [
        (FREE, "network.requires_grad_(False)", "all 2 tensors of weights are frozen"),
        (
            "with torch.no_grad():\n    " + FREE,
            "network",
            "the logits have no gradient: expected a forward that doesn't run under",
        ),
        (
            "logits = self.linear(images.flatten(1))\nreturn (images.flatten(1), logits) if self.training else logits",
            "network",
            r"^in training mode the network gives float32 \[6, 64\] as its logits, expected float32 \[6, 10\], as in eval mode$",
        ),
        ("return self.linear(images.flatten(1) @ self.mix)", "mixed(network)", "a model file can't hold this network"),
    ],
)
def test_networks_that_training_would_be_lost_on_are_refused_before(
    forward: str, made: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "import random\ndef mixed(network):\n    network.mix = random.random() * torch.eye(64)\n    return network"
    text = factory(forward, before) + f"\nplain = make\ndef make():\n    network = plain()\n    return {made}\n"
    (tmp_path / "lost_network.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "lost_network", raising=False)

    def step(*_: object) -> None:
        raise AssertionError("trains")

    with pytest.raises(ModelError, match=message):
        data = fmtool.load_data("digits:train", limit=8)
        fmtool.train_model(data, architecture="lost_network:make", epochs=1, execution=fmtool.Execution(progress=step))


def test_further_outputs_of_training_mode_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = "logits = self.linear(images.flatten(1))\nreturn (logits, logits) if self.training else logits"
    (tmp_path / "auxiliary_network.py").write_text(factory(forward))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        FmtoolWarning, match=r"in training mode the network gives a tuple of Tensor, Tensor: only the logits"
    ):
        data = fmtool.load_data("digits:train", limit=8)
        fmtool.train_model(data, architecture="auxiliary_network:make", recipe="one-cycle", epochs=1)


def test_a_factorys_network_is_told_what_importing_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = "return self.linear(images.flatten(1)).softmax(1), images"
    text = (
        factory(forward)
        + "\nplain = make\ndef make():\n    network = plain()\n    network.linear.bias.requires_grad_(False)\n"
    )
    (tmp_path / "soft_network.py").write_text(f"{text}    return network\n")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(FmtoolWarning) as told:
        data = fmtool.load_data("digits:train", limit=8)
        made = fmtool.train_model(data, architecture="soft_network:make", recipe="one-cycle", epochs=1)
    lines = [str(one.message) for one in told]
    for start in (
        "1 of 2 tensors of weights are frozen",
        "the network gives a tuple",
        "the network's outputs are probabilities",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, lines
    assert made.kind == "model"
