"""Attacks on a compiled classifier take the gradients of its graph, and are judged by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacking import attack, by_foolbox
from compilers import as_it_is
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks
from fmtool.models import compiled_classifier, compiling

CPU = torch.device("cpu")


@pytest.fixture
def graphs_are_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled: the passes' own bits."""
    monkeypatch.setattr(compiling, "compiled", as_it_is)


class Refusing(nn.Module):
    """Must not run."""

    def forward(self, _: Tensor) -> Tensor:
        raise AssertionError("the plain classifier was asked")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "epsilon"),
    [
        ("LInfFMNAttack", {"steps": 30}, None),
        ("L2FMNAttack", {"steps": 10}, None),
        ("LinfPGD", {"steps": 8, "random_start": False}, 0.1),
        ("L2AdamPGD", {"steps": 5, "random_start": False}, 1.0),
        ("L1FastGradientAttack", {}, 5.0),
    ],
)
def test_every_gradient_is_the_graphs(
    trained: tuple[nn.Module, Tensor, Tensor], graphs_are_functions: None, name: str, options: dict[str, Any],
    epsilon: float | None,
) -> None:  # fmt: skip
    """Uncompiled graphs give Foolbox's images bit for bit, and autograd never comes to the plain classifier."""
    classifier, images, labels = trained
    made, _ = attacks.build(name, options)
    network = compiled_classifier.compiled(classifier, images.shape[1:], len(images), CPU, attacks.followed_loss(made))
    theirs = getattr(attacks.load_foolbox().attacks, name)(**options)
    expected = by_foolbox(classifier, images, labels, theirs, epsilon)
    network.classifier = Refusing()
    found = attack(network, images, labels, name, epsilon=epsilon, batch=len(images), **options)
    assert torch.equal(found.adversarial, expected) and not torch.equal(expected, images)


@pytest.mark.parametrize("name", ["deepfool", "LinfRepeatedAdditiveUniformNoiseAttack", "BoundaryAttack"])
def test_other_attacks_follow_no_one_loss(name: str) -> None:
    assert attacks.followed_loss(attacks.build(name, {})[0]) is None
