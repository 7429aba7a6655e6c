"""What SOURCE, --architecture and --weights describe, and normalisations, shapes and classes that can't be."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fmtool
from fmtool.errors import FmtoolWarning, ModelError
from fmtool.models import networks
from fmtool.models.model_files import from_artifact
from fmtool.models.registry import ARCHITECTURES
from fmtool.stages.import_model import Checkpoint, Origin, _is_published, read_source

SMALL: dict[str, Any] = {"weights": "none", "input_shape": (1, 8, 8)}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file whose suffix says nothing."""
    (tmp_path / "weights.x").write_bytes(b"weights")
    return str(tmp_path / "weights.x")


def test_a_source_is_a_file_a_name_or_a_factory(weights: str) -> None:
    checkpoint = Checkpoint(weights, b"weights")
    assert read_source(weights, "resnet20", None) == Origin("resnet20", "file", checkpoint)
    assert read_source("resnet20", None, weights) == Origin("resnet20", "file", checkpoint)
    assert read_source("resnet20", None, "none") == Origin("resnet20", "none")
    assert read_source("package.module:make", None, None) == Origin("package.module:make", "own")
    assert read_source("resnet18", None, "default") == Origin("resnet18", "default")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert checkpoint.record() == {"option": "--weights", "name": "weights.x", "split": "", "digest": digest}


def test_a_name_comes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless --architecture says that it is a checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path("resnet8").write_bytes(b"weights")
    assert read_source("resnet8", None, "none") == Origin("resnet8", "none")
    assert read_source("resnet8", "resnet8", None).weights == "file"


def test_sources_that_contradict_each_other_are_told(weights: str) -> None:
    for arguments, message in (
        (
            (weights, None, None),
            r"weights\.x: a checkpoint needs --architecture \(a name, or package\.module:factory\)$",
        ),
        ((weights, "resnet20", weights), r"^--weights goes with the name of a network, but SOURCE is a checkpoint$"),
        (("missing.pth", None, None), r"^missing\.pth: no such file$"),
        (("folder/missing", None, None), r"^folder/missing: no such file$"),
        (("missing", "resnet20", None), r"^missing: no such file \(--architecture goes with a checkpoint\)$"),
    ):
        with pytest.raises(ModelError, match=message):
            read_source(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5]}, r"^--mean and --std go together$"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, r"^--mean: 3 numbers for 1 channels$"),
        ({"mean": [float("nan")], "std": [1.0]}, r"^--mean nan: expected finite numbers$"),
        ({"mean": [0.5], "std": [0.0]}, r"^--std 0\.0: expected numbers above 0$"),
        ({"keep_classes": [1, 1]}, r"^--keep-classes: expected distinct numbers from 0 to 9$"),
        ({"keep_classes": [10]}, r"^--keep-classes: expected distinct numbers from 0 to 9$"),
        ({"class_names": ["a"]}, r"^--class-names: 1 names for 10 classes$"),
        ({"input_shape": (8, 8)}, r"^--input-shape 8,8: expected channels,height,width$"),
        ({"pretrained": True}, r"^--pretrained goes with timm:NAME or robustbench:NAME, and without --weights$"),
        (
            {"factory_options": {"width": 1}},
            r"^--factory-option goes with package.module:factory, timm:NAME or robustbench:NAME$",
        ),
        ({"input_shape": (3, 2000, 2000)}, r"^--input-shape 3,2000,2000: expected at most 8388608 values in an image$"),
        ({"weights": "default"}, r"^resnet8: has no default weights: give --weights FILE or --weights none$"),
        ({"weights": None}, r"^resnet8: has no default weights: give --weights FILE or --weights none$"),
    ],
)
def test_options_that_can_not_be_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fmtool.import_model("resnet8", **{**SMALL, **options})


def test_weights_for_images_in_colour_do_not_normalise_grey_ones() -> None:
    with pytest.raises(
        ModelError, match=r"^its own weights' normalisation is for 3 channels, not for 1: pass --mean and --std$"
    ):
        fmtool.import_model("resnet18", weights="default", input_shape=(1, 8, 8))


@pytest.mark.parametrize("weights", ["default", "none"])
def test_a_factory_brings_its_weights(weights: str) -> None:
    with pytest.raises(
        ModelError, match=rf"^--weights {weights}: a:b returns a network with its weights; leave the option out$"
    ):
        fmtool.import_model("a:b", weights=weights)


def test_a_normalisation_for_bytes_is_warned_of() -> None:
    with pytest.warns(FmtoolWarning, match="exceed 1, but images are in .0, 1.: divide them by 255"):
        fmtool.import_model("resnet8", **SMALL, mean=[127.5], std=[127.5])


def test_fresh_weights_are_those_of_the_seed_and_the_history_says_how() -> None:
    model = fmtool.import_model("resnet8", **SMALL, seed=3, keep_classes=[4, 2], class_names=["four", "two"])
    torch.manual_seed(3)
    expected = ARCHITECTURES["resnet8"].build(1, 10).state_dict()
    assert all(torch.equal(model[name], tensor) for name, tensor in expected.items() if tensor.is_floating_point())
    assert model.header["class_names"] == ["four", "two"] and model.header["outputs"] == 10
    (stage,) = model.history
    assert (stage["command"], stage["seed"], stage["inputs"]) == ("import-model", 3, [])
    assert stage["options"]["--weights"] == "none" and stage["options"]["--keep-classes"] == [4, 2]
    assert stage["arguments"] == ["resnet8"]


def test_torchvisions_own_files_are_known_by_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no line about their normalisation; another architecture's file does."""
    start = hashlib.sha256(b"weights").hexdigest()[:10]
    published = {
        "a": [SimpleNamespace(url=f"https://host/a-{start}.pth")],
        "b": [SimpleNamespace(url="b-12345678.pth")],
    }
    library = SimpleNamespace(get_model_weights=published.__getitem__)
    monkeypatch.setattr(networks, "load_torchvision", lambda: library)
    for name, content, expected in (("a", b"weights", True), ("a", b"other", False), ("b", b"weights", False)):
        assert _is_published(Origin(name, "file", Checkpoint("w.pth", content))) is expected


OWN = """
import torch
from torch import nn

class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images):
        self.mean.mul_(0.9).add_(0.1 * images.mean())
        return self.linear(images.flatten(1) - self.mean)

class Wide(Counts):
    def __init__(self):
        super().__init__()
        self.register_buffer("wide", torch.zeros(2, dtype=torch.complex128))

class Lazy(Counts):
    def __init__(self):
        super().__init__()
        self.further = nn.LazyLinear(10)

    def forward(self, images):
        return self.further(images) if self.training else self.linear(images.flatten(1))

class Extra(Counts):
    def get_extra_state(self):
        return {"some": "thing"}

    def set_extra_state(self, state):
        pass

def probabilities():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Softmax(dim=1))

def sized(m):
    return Counts()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def test_the_network_that_is_stored_is_the_one_that_was_given(own: str) -> None:
    """Whatever a forward pass changes in it; a line says that one does."""
    with pytest.warns(FmtoolWarning, match="a forward pass changes mean of the network, also in eval mode"):
        model = fmtool.import_model(f"{own}:Counts", input_shape=(1, 8, 8))
    assert model["mean"].tolist() == [0]
    again, _ = from_artifact(model, factory=f"{own}:Counts")
    assert again.network.mean.tolist() == [0]


def test_probabilities_are_told_of_also_if_some_classes_are_kept(own: str) -> None:
    with pytest.warns(FmtoolWarning, match="outputs are probabilities"):
        fmtool.import_model(f"{own}:probabilities", input_shape=(1, 8, 8), keep_classes=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Wide", {}, "can't hold wide of this network, which is complex128: expected complex64$"),
        ("Lazy", {}, "^further.weight of the network has no shape yet, and a forward pass in eval mode gives it none"),
        ("Extra", {}, "can't hold _extra_state of this network: it is no tensor$"),
        ("sized", {"factory_options": {"m": {0: 8}}}, "--factory-option: expected text for the keys of a dictionary"),
        ("sized", {"factory_options": {"m": [{"a": {1: 2}}]}}, "--factory-option: expected text for the keys"),
    ],
)
def test_what_a_file_can_not_hold_is_told(name: str, options: dict[str, Any], message: str, own: str) -> None:
    with pytest.raises(ModelError, match=message):
        fmtool.import_model(f"{own}:{name}", input_shape=(1, 8, 8), **options)
