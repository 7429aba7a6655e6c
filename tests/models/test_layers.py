"""The layers of a network, and the network cut in two at one of them: together the halves are the network as given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fmtool
from fmtool.errors import ModelError
from fmtool.models.classifier import Classifier
from fmtool.models.layers import Activations, cut, layers_of
from fmtool.models.resnet import ResNet

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


class Several(nn.Module):
    """Layers that can and can't be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, 4, 3, padding=1)
        self.norm, self.rectified = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.branch, self.after = nn.Conv2d(4, 4, 1), nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.Identity())
        self.unused, self.never = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)
        self.pair, self.linear = Pair(), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Any:
        x = self.rectified(self.norm(self.input(images)))
        x = self.twice(self.twice(x))
        x = self.after(x + self.branch(x))
        self.unused(x)
        x, _ = self.pair(x)
        return {"logits": self.linear(x.mean(dim=(2, 3)))}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(x), x


class Branches(Several):
    """Its path depends on its input, which torch.fx can't trace."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images if images.max() > 0.9 else images / 2)


class ChannelsLast(nn.Module):
    """A layer inside gives (n, h, w, c), as Swin's and ConvNeXt's do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 6, 1), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(self.conv(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))
        return logits


class Unseen(nn.Module):
    """Changes its images in place, by a call whose result nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(2).add_(1)
        logits: Tensor = self.linear(self.conv(images).mean(dim=(2, 3)))
        return logits


def classifier(network: nn.Module, keep: list[int] | None = None) -> Classifier:
    """Normalises; batch norms as after training."""
    numbers = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=numbers)
            module.running_var = torch.rand(module.num_features, generator=numbers) * 2 + 0.1
    return Classifier(network, [0.4] * 3, [0.3] * 3, keep).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_layers_are_listed_with_the_shapes_of_their_outputs() -> None:
    layers = {layer.name: layer for layer in layers_of(classifier(Several()), SHAPE)}
    assert {name: layer.shape for name, layer in layers.items()} == {
        "input": (4, 8, 8), "norm": (4, 8, 8), "rectified": (4, 8, 8), "twice": (4, 8, 8), "branch": (4, 8, 8),
        "after": (6, 3, 3), "after.0": (6, 3, 3), "after.1": (6, 3, 3), "unused": (2, 3, 3), "linear": (5,),
    }  # fmt: skip
    assert layers["after"].type == "Sequential"
    obstacles = {name: layer.obstacle for name, layer in layers.items() if layer.obstacle}
    assert obstacles == {
        "input": "this name stands for the images",
        "twice": "it runs 2 times",
        "branch": "another path leads around it",
        "unused": "the logits don't depend on it",
        "linear": "its output is 5 an image, not channels x height x width",
    }
    fails = Classifier(nn.Linear(7, 2)).eval()
    assert layers_of(fails, SHAPE) == []


@pytest.mark.parametrize("name", ["norm", "rectified", "after", "after.0"])
def test_the_halves_are_the_network(name: str) -> None:
    """Of the network as given: a batch norm's own output, before the rectifier that changes it in place."""
    whole = classifier(Several(), keep=[3, 0])
    halves = cut(whole, name, SHAPE, CPU)
    images = torch.rand(5, *SHAPE)
    before, outputs = images.clone(), []
    hook = whole.network.get_submodule(name).register_forward_hook(lambda _, __, out: outputs.append(out.clone()))
    expected = whole(images)
    hook.remove()
    activations = halves.front(images)
    assert tuple(activations.shape[1:]) == halves.shape == tuple(outputs[0].shape[1:])
    torch.testing.assert_close(activations, outputs[0], rtol=0, atol=1e-6)
    if name == "norm":
        assert float(activations.min()) < 0
    kept = activations.clone()
    torch.testing.assert_close(halves.rest(activations), expected, rtol=0, atol=1e-5)
    assert torch.equal(activations, kept) and torch.equal(images, before)


@pytest.mark.parametrize("name", ["layer1", "layer2.0", "layer3"])
def test_the_rest_is_the_prepared_network_from_there(name: str) -> None:
    """So is the front: batch norms are folded."""
    whole = classifier(ResNet(3, 10, blocks=2, width=8))
    halves = cut(whole, name, SHAPE, CPU)
    assert not any(
        isinstance(module, nn.BatchNorm2d) for half in (halves.front, halves.rest) for module in half.modules()
    )
    assert not list(filter(lambda parameter: parameter.requires_grad, halves.rest.parameters()))
    images = torch.rand(4, *SHAPE, requires_grad=True)
    (expected,) = torch.autograd.grad(whole(images).square().sum(), images)
    (actual,) = torch.autograd.grad(halves.rest(halves.front(images)).square().sum(), images)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("network", "name", "reason"),
    [
        (Several(), "twice", r"it runs 2 times; expected input or norm, rectified, after, after\.0, after\.1 \(fmtool"),
        (Several(), "branch", "another path leads around it; expected input or norm, "),
        (Several(), "linear", r"its output is 5 an image, not channels x height x width; expected input or norm, "),
        (ChannelsLast(), "norm", "its output is 8x8x6 an image, height x width x channels, not .*; expected input or conv "),
        (Several(), "pair", "it gives no tensor; expected input or norm, "),
        (Several(), "never", "it gives no tensor; expected input or norm, "),
        (Several(), "after.2", "the network has no such layer; expected input or norm, "),
        (Branches(), "after", "torch.fx can't trace the network .*; no layer can be cut"),
        (Unseen(), "conv", "the network cut there is not the one that was given: its activations would differ by"),
    ],
)  # fmt: skip
def test_where_it_cannot_be_cut(network: nn.Module, name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"^--layer {name}: {reason}"):
        cut(classifier(network), name, SHAPE, CPU)


def test_a_difference_in_the_rest_is_seen() -> None:
    """A call whose result nobody uses, behind the cut."""

    class Behind(Unseen):
        def forward(self, images: Tensor) -> Tensor:
            x = self.conv(images)
            x.mul_(2)
            logits: Tensor = self.linear(x.mean(dim=(2, 3)))
            return logits

    with pytest.raises(ModelError, match="not the one that was given: its logits would differ by"):
        cut(classifier(Behind()), "conv", SHAPE, CPU)


def test_an_images_activations_depend_on_no_other_image() -> None:
    whole = classifier(ResNet(3, 10, blocks=1, width=8))
    halves = cut(whole, "layer2", SHAPE, CPU)
    images = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8)
    activations = Activations(images, halves, CPU)
    assert activations.shape == (6, 16, 4, 4) and len(activations) == 6
    together = activations[torch.arange(6)]
    assert together.dtype == torch.float32 and not together.requires_grad
    for row in range(6):
        assert torch.equal(activations[row], together[row])
        assert torch.equal(Activations(images[row : row + 1], halves, CPU)[:][0], together[row])
    torch.testing.assert_close(together, halves.front(images / 255), rtol=1e-5, atol=1e-5)


def test_a_model_file_lists_its_layers(files: Path) -> None:
    layers = fmtool.read(str(files / "model.safetensors")).header["layers"]
    assert {"name": "layer2", "type": "Sequential", "shape": [16, 4, 4], "cut": True} in layers
    assert {"name": "linear", "type": "Linear", "shape": [10], "cut": False} in layers
