"""Copies of networks that hold what their forward pass computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from torch import Tensor, nn

import fmtool
from fmtool.models.classifier import Classifier, prepare
from fmtool.models.copies import copied
from fmtool.models.layers import cut

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
KEEPING = """
import torch
from torch import nn

class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.seen = {}

    def forward(self, images):
        self.features = self.norm(self.conv(images)).relu()
        self.seen["logits"] = [self.head(self.features.mean(dim=(2, 3)))]
        return self.seen["logits"][0]

def make():
    return Keeping()
"""


class Keeping(nn.Module):
    """Keeps its activations, for whoever wants to look at them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)
        self.seen: dict[str, list[Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        self.features = self.norm(self.conv(images)).relu()
        self.seen["logits"] = [self.head(self.features.mean(dim=(2, 3)))]
        return self.seen["logits"][0]


def test_kept_activations_are_copied_without_their_graph() -> None:
    network = Keeping().eval()
    logits = network(torch.rand(2, *SHAPE))
    copy = copied(network)
    assert torch.equal(copy.seen["logits"][0], logits) and copy.seen["logits"][0].is_leaf
    assert logits.requires_grad and network.seen["logits"][0] is logits  # the network itself keeps the graph
    assert all(one is not other for one, other in zip(network.parameters(), copy.parameters(), strict=True))
    logits.sum().backward()
    assert network.conv.weight.grad is not None and copy.conv.weight.grad is None


class Hooked(nn.Module):
    """Reads its features from a store that a hook fills, as is usual: by a closure that means the network itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), nn.Linear(6, 5)
        self.features: dict[str, Tensor] = {}
        self.body.register_forward_hook(self.saves("body"))
        linear = self.head.forward
        self.head.forward = lambda given: linear(given)  # as code that wraps a layer does
        self.stages = [partial(lambda run, images: run(images), lambda images: self.body(images))]
        self.named = {"last": (lambda: self.head,)}

    def saves(self, name: str) -> Callable[..., None]:
        def keep(output: Tensor | tuple[Tensor], *, features: dict[str, Tensor] = self.features) -> None:
            if isinstance(output, tuple):
                keep(output[0])
            else:
                self.features[name] = features["kept"] = output

        return lambda module, images, output, keep=keep: keep((output,))

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            stage(images)
        logits: Tensor = self.named["last"][0]()(self.features["body"].mean(dim=(2, 3)))
        return logits


def test_hooks_of_a_copy_mean_the_copy() -> None:
    network = Hooked().eval()
    one, other = torch.rand(2, 3, *SHAPE).unbind()
    expected = network(other).detach()
    kept = network(one)
    copy = copied(network)
    assert torch.equal(copy(other), expected)
    assert torch.equal(network.head(network.features["body"].mean(dim=(2, 3))), kept)  # its store is left alone
    assert copy.features["kept"] is copy.features["body"] and network.features["kept"] is network.features["body"]
    assert torch.equal(copied(copy)(other), expected)
    nn.init.zeros_(copy.head.weight)
    assert torch.equal(copy(other), copy.head.bias.expand(3, 5))
    ready = prepare(Classifier(network), CPU, SHAPE)
    torch.testing.assert_close(ready(other), expected)


class Sharing(nn.Module):
    """Hands a list of its own on to its copies, as some libraries do with settings."""

    def __init__(self, steps: list[Any]) -> None:
        super().__init__()
        self.body, self.steps = nn.Linear(3, 2), steps
        self.steps.append(lambda images: self.body(images))
        self.act = update_wrapper(partial(nn.functional.leaky_relu, negative_slope=0.1), nn.functional.leaky_relu)
        self.pairs = Fixed([(1, 2), (3, 4)])

    def __deepcopy__(self, memo: dict[int, Any]) -> Sharing:
        double = Sharing([])
        double.steps = self.steps
        return double


class Fixed(list[Any]):
    def __setitem__(self, *given: Any) -> None:
        raise TypeError("can't be changed")


def test_a_copy_changes_nothing_that_it_shares_and_keeps_the_rest() -> None:
    network = Sharing([])
    (step,) = network.steps
    copy = copied(nn.Sequential(network))[0]
    assert network.steps == [step] and copy.steps is network.steps
    plain = nn.Module()
    plain.act, plain.pairs = network.act, network.pairs
    double = copied(plain)
    assert double.act.__name__ == "leaky_relu" and double.act(torch.tensor(-1.0)) == network.act(torch.tensor(-1.0))
    assert double.pairs == network.pairs and double.pairs is not network.pairs


@pytest.mark.filterwarnings("error")
def test_a_network_that_keeps_activations_is_prepared_whole_and_cut() -> None:
    """Without a word: neither its batch norm nor its layout is left as it was."""
    network = Keeping().eval()
    images = torch.rand(3, *SHAPE)
    expected = network(images).detach()
    for classifier in (Classifier(network), Classifier(network, [0.0], [1.0])):
        ready = prepare(classifier, CPU, SHAPE)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.network.modules())
        assert ready.memory_format == torch.channels_last
        torch.testing.assert_close(ready(images), expected)
    halves = cut(Classifier(network), "norm", SHAPE, CPU)
    torch.testing.assert_close(halves.rest(halves.front(images)), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fmtool.errors.FmtoolWarning")
def test_stages_run_a_network_that_keeps_activations(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network_that_keeps.py").write_text(KEEPING)
    name = "network_that_keeps:make"
    assert run("import-model", name, "--input-shape", "1,8,8", "-o", "model").code == 0
    trained = run(
        *("train-model", "--from", "model", "--factory", name, "--data", "digits:train"),
        *("--epochs", "1", "--limit", "64", "-o", "trained"),
    )
    assert trained.code == 0, trained.err
    attacked = run(
        *("attack", "trained", "--factory", name, "--data", "digits:test", "--limit", "40", "--attack", "fmn"),
        *("--attack-option", "steps=5", "-o", "attacked"),
    )
    assert attacked.code == 0, attacked.err
    fitted = run(
        *("fit-masks", "trained", "attacked", "--for", "essential", "--factory", name),
        *("--min-steps", "3", "--max-steps", "5", "-o", "masks"),
    )
    assert fitted.code == 0, fitted.err
    assert len(fmtool.read("masks")["masks"])
