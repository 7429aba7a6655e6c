"""Every classification network of torchvision: imported, its model file alone gives torchvision's own predictions."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import Run
from torch import Tensor, nn

import fmtool
from fmtool.models.model_files import from_artifact

NAMES = torchvision.models.list_models(module=torchvision.models)
MANY = 30_000_000  # weights of the networks that are imported by hand alone: the largest take 20 GB of memory and minutes each
FIXED = ("vit_", "maxvit")  # networks that take images of one size
SMALLEST = {
    "inception_v3": 75,
    "alexnet": 63,
}  # side of the smallest image that a network takes, where 64 is not enough


def _side(name: str, weights: Any) -> int:
    if name.startswith(FIXED):
        return int(weights.meta["min_size"][0])
    return SMALLEST.get(name, 64)


def _weights_of(name: str) -> Any:
    return torchvision.models.get_model_weights(name).DEFAULT


def _size(name: str) -> int:
    return int(_weights_of(name).meta["num_params"])


# the smallest network of each of torchvision's files
FIRST = {torchvision.models.get_model_builder(name).__module__: name for name in sorted(NAMES, key=_size, reverse=True)}
FIRST["torchvision.models.vision_transformer"] = "vit_b_32"  # hardly larger than vit_b_16, and takes half its time


def _all() -> list[Any]:
    """The networks: the large ones marked huge, or long where their file has no smaller one."""
    assert len(NAMES) > 70 and len(FIRST) > 10

    def marks(name: str) -> list[Any]:
        if _size(name) <= MANY:
            return []
        return [pytest.mark.long] if name in FIRST.values() else [pytest.mark.huge]

    return [pytest.param(name, marks=marks(name)) for name in NAMES]


def _drawn(name: str) -> nn.Module:
    """The network with weights that tell images apart, as torchvision publishes them: with auxiliary outputs if any."""
    builder = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    assert "weights" in builder
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "init_weights": False}
    if name.startswith("vit_"):
        options = {"image_size": _weights_of(name).meta["min_size"][0]}
    torch.manual_seed(3)
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    numbers = torch.Generator().manual_seed(4)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=numbers)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features, generator=numbers)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=numbers)
    return network.eval()


def _images(side: int) -> Tensor:
    """One colour an image, and noise."""
    numbers = torch.Generator().manual_seed(0)
    return 0.7 * torch.rand(4, 3, 1, 1, generator=numbers) + 0.3 * torch.rand(4, 3, side, side, generator=numbers)


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor, weights: Any) -> Tensor:
    """What torchvision's own network gives for normalised images."""
    transforms = weights.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transforms.mean, transforms.std))
    logits: Tensor = network.eval()((images - mean) / std)
    return logits


@torch.no_grad()
def _imported(run: Run, images: Tensor, *line: object) -> Tensor:
    """The logits of the network in a model file that is made and read."""
    outcome = run("import-model", *line, "-o", "model")
    assert outcome.code == 0, outcome.err
    classifier, _ = from_artifact(fmtool.read("model"))
    os.remove("model")
    return classifier(images)


@pytest.mark.slow
@pytest.mark.parametrize("name", _all())
def test_every_network_is_what_torchvision_builds(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With default weights (drawn ones in the cache's place); the first of a file also from a file and with fresh weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = _weights_of(name)
    side = _side(name, weights)
    images, shape = _images(side), ["--input-shape", f"3,{side},{side}"]
    cached = tmp_path / "hub" / "checkpoints" / os.path.basename(weights.url)
    cached.parent.mkdir(parents=True)
    torch.save(_drawn(name).state_dict(), cached)
    own = torchvision.models.get_model(name, weights="DEFAULT")
    expected = _logits(own, images, weights)
    assert expected.isfinite().all()
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(_imported(run, images, name, *shape), expected, **close)
    if name not in FIRST.values() or _size(name) > MANY:
        return
    local = _imported(run, images, cached, "--architecture", name, *shape)
    torch.testing.assert_close(local, expected, **close)
    cached.unlink()
    options = {"image_size": side} if name.startswith("vit_") else {}
    options |= {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    options |= {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(5)
    fresh = torchvision.models.get_model(name, weights=None, **options).eval()
    with torch.no_grad():
        expected = fresh(images)
    found = _imported(run, images, name, "--weights", "none", "--seed", 5, *shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.slow
def test_image_size_of_a_vit_is_recorded(run: Run, tmp_path: Path) -> None:
    line = ["import-model", "vit_b_32", "--weights", "none", "--input-shape", "3,64,64", "-o", tmp_path / "model"]
    assert run(*line).code == 0
    header = fmtool.read(str(tmp_path / "model")).header
    assert header["arguments"] == {"image_size": 64} and header["input_shape"] == [3, 64, 64]
    line[5] = "3,64,96"
    assert "vit_b_32 takes square images" in run(*line).err


@pytest.mark.slow
def test_default_weights_of_a_vit_name_their_image_size(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / os.path.basename(_weights_of("vit_b_32").url)
    cached.parent.mkdir(parents=True)
    torch.save(torchvision.models.vit_b_32(weights=None).state_dict(), cached)
    outcome = run("import-model", "vit_b_32", "--input-shape", "3,64,64", "-o", tmp_path / "model")
    assert outcome.code == 1 and "weights are for images of 3x224x224, not 3x64x64 (see --input-shape)" in outcome.err
