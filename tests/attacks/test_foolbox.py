"""Attacks against Foolbox called directly, against a closed form, and what becomes of images that can't be attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attacking import CPU, attack
from torch import Tensor, nn

import fmtool
from fmtool.attacks import foolbox as attacks
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.errors import AttackError, FmtoolWarning


def test_only_the_rows_asked_for_are_perturbed(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """All of those, also what the classifier gets wrong, each as `run` would."""
    classifier, images, labels = trained
    made, _ = attacks.build("pgd", {})
    rows, seeds, found = torch.tensor([9, 2, 5]), list(range(len(images))), images.clone()
    common: dict[str, Any] = {"epsilon": 0.2, "row_seeds": seeds, "batch": 2, "device": CPU}
    attacks.perturb_(classifier, found, labels, rows, made, **common)
    others = [row for row in seeds if row not in rows.tolist()]
    assert torch.equal(found[others], images[others])
    expected = attacks.run(classifier, images, labels, made, **common).adversarial
    assert torch.equal(found[rows], expected[rows])
    attacks.perturb_(classifier, found, (labels + 1) % 10, rows, made, **common)
    assert not torch.equal(found[rows], expected[rows])


@pytest.mark.parametrize("name", ["fmn", "deepfool"])
def test_minimal_perturbation_of_a_linear_classifier(name: str) -> None:
    """For logits a.x + b against 0 the smallest l-inf perturbation is |a.x + b| / |a|_1, if no pixel meets its bounds.

    Over images whose margin exceeds 0.01 the median distance is within 5 % of it. Failures count as infinitely far.
    """
    torch.manual_seed(0)
    layer = nn.Linear(64, 2, bias=True)
    with torch.no_grad():
        layer.weight[0] = torch.randn(64)
        layer.weight[1] = 0
        layer.bias[0], layer.bias[1] = -0.5 * layer.weight[0].sum(), 0
    classifier = nn.Sequential(nn.Flatten(), layer).requires_grad_(False).eval()
    images = torch.rand(200, 1, 8, 8) * 0.4 + 0.3
    gap = classifier(images)[:, 0] / layer.weight[0].abs().sum()
    chosen = gap.abs() > 0.01
    images, least = images[chosen], gap[chosen].abs()
    labels = (gap[chosen] < 0).long()
    found = attack(classifier, images, labels, name, batch=64)
    distance = (found.adversarial - images).abs().amax(dim=(1, 2, 3))
    distance[found.status == FAILED] = torch.inf
    assert len(images) > 50
    assert float(distance.median()) == pytest.approx(float(least.median()), rel=0.05)
    assert float((distance / least).median()) == pytest.approx(1, abs=0.05)


def test_images_wrong_before_are_flagged_and_left_alone(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    wrong = labels.clone()
    wrong[:5] = (wrong[:5] + 1) % 10
    found = attack(classifier, images, wrong, "pgd", epsilon=0.3)
    assert found.status[:5].tolist() == [WRONG_BEFORE] * 5
    assert torch.equal(found.adversarial[:5], images[:5])
    assert torch.equal(found.adversarial_predictions[:5], found.clean_predictions[:5])
    assert bool((found.status[5:] != WRONG_BEFORE).all())


def test_success_is_judged_on_the_stored_image(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    found = attack(classifier, images, labels, "fmn")
    again = classifier(found.adversarial).argmax(1)
    assert torch.equal(found.adversarial_predictions, again)
    assert torch.equal(found.status == OK, again != labels)


def test_an_attack_that_fails_says_so(trained: tuple[nn.Module, Tensor, Tensor], files: Path) -> None:
    classifier, images, labels = trained
    found = attack(classifier, images, labels, "pgd", epsilon=1e-6)
    assert bool((found.status == FAILED).all())
    model = fmtool.read(str(files / "model.safetensors"))
    with pytest.warns(FmtoolWarning, match="fails on"):
        fmtool.attack(model, fmtool.load_data("digits:test", limit=20), attack="pgd", epsilon=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fnm", {}, "unknown attack 'fnm' .did you mean 'fmn'"),
        ("Attack", {}, "unknown attack 'Attack' .did you mean '(?!Attack')(?!.* (Attack|FixedEpsilonAttack),)"),
        ("pgd", {"abs_stepsize": "2/255"}, "--attack-option abs_stepsize: expected a number, got '2/255'"),
        ("pgd", {"stpes": 3}, "unknown option of attack pgd 'stpes' .did you mean 'steps'"),
    ],
)
def test_unknown_names_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        attacks.build(name, options)


def test_an_option_that_is_false_or_text_may_be_text() -> None:
    assert attacks.build("BoundaryAttack", {"tensorboard": "runs"})[1]["tensorboard"] == "runs"
