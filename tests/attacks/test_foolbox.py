"""Attacks against Foolbox called directly, against a closed form, and what becomes of images that can't be attacked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from attacking import CPU, attack
from torch import Tensor, nn

import fmtool
from fmtool.attacks import foolbox as attacks
from fmtool.attacks import registry
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


def test_all_options_in_effect_are_recorded(files: Path) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    data = fmtool.load_data("digits:test", limit=10)
    made = fmtool.attack(model, data, attack="pgd", epsilon=0.3, attack_options={"steps": 7})
    assert made.header["options"] == {
        "steps": 7, "epsilon": 0.3, "random_start": True, "rel_stepsize": 0.01 / 0.3, "abs_stepsize": None,
    }  # fmt: skip
    default = fmtool.attack(model, data, attack="pgd")
    assert default.header["options"]["epsilon"] == 8 / 255


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fnm", {}, "unknown attack 'fnm' .did you mean 'fmn'"),
        ("Attack", {}, "unknown attack 'Attack' .did you mean '(?!Attack')(?!.* (Attack|FixedEpsilonAttack),)"),
        ("pgd", {"stpes": 3}, "unknown option of attack pgd 'stpes' .did you mean 'steps'"),
    ],
)
def test_unknown_names_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        attacks.build(name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e999", "rel_stepsize: expected a number of at most 1e.300"),
        ("-1e301", "rel_stepsize: expected a number"),
        ("0x" + "f" * 5000, "rel_stepsize: expected a number"),  # too long to print
        ("'\\ud800'", r"rel_stepsize: expected printable text, got '.ud800'"),
        ("{[]: 1}", "can't run on this classifier, or with such an option"),  # no literal, and so text
        ("abc", "can't run on this classifier, or with such an option"),
    ],
)
def test_options_that_no_attack_or_file_takes(text: str, message: str, files: Path) -> None:
    """In one line, before the work where that can be told."""
    options = registry.parse_options({"rel_stepsize": text})
    with pytest.raises(AttackError, match=message):
        fmtool.attack(
            fmtool.read(str(files / "model.safetensors")),
            fmtool.load_data("digits", limit=10),
            attack="pgd",
            attack_options=options,
        )


def test_bounds_where_there_are_none_or_must_be(trained: tuple[nn.Module, Tensor, Tensor], files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=10)
    with pytest.raises(AttackError, match="takes no bound"):
        fmtool.attack(model, data, attack="fmn", epsilon=0.1)
    with pytest.raises(AttackError, match="needs an --epsilon"):
        fmtool.attack(model, data, attack="LinfBasicIterativeAttack")


def test_nothing_right_is_nothing_to_attack(files: Path) -> None:

    model = fmtool.read(str(files / "model.safetensors"))
    data = fmtool.load_data("digits:test", limit=20)
    attacked = fmtool.attack(model, data, attack="LinfFastGradientAttack", epsilon=0.01)
    wrong = (attacked["clean_predictions"] + 1) % 10
    with pytest.raises(AttackError, match="nothing to attack"):
        fmtool.attack(model, dataclasses.replace(data, labels=wrong), attack="fmn")


@pytest.mark.slow
def test_real_network_on_real_images(shared_data: Path) -> None:
    """The published ResNet-20 and CIFAR-10 images: clean accuracy of all 1,017; the attacks on 64, where all succeed.

    The medians over all images are 0.608/255 and 0.779/255 (measured apart); those of these 64 lie within a third of that.
    """
    model = fmtool.import_model(
        str(shared_data / "resnet20-12fca82f.th"), architecture="resnet20", mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    from fmtool.models.classifier import predict
    from fmtool.stages.prepare import ready_model

    path = str(shared_data / "cifar10-test-1017.safetensors")
    everything, run = fmtool.load_data(path), ready_model(model, fmtool.Execution(device="cpu"))
    clean = predict(run.classifier, everything.pixels(), run.batch, CPU)
    assert int((clean == everything.labels).sum()) == 932  # 91.64 %
    data = fmtool.load_data(path, limit=64)
    for name, expected in (("fmn", 0.608), ("deepfool", 0.779), ("pgd", None)):
        found = fmtool.attack(model, data, attack=name)
        right = found["status"] != WRONG_BEFORE
        assert int((found["adversarial_predictions"] == found["labels"]).sum()) == 0, name
        distance = 255 * (found["adversarial"] - found["images"]).abs().amax(dim=(1, 2, 3))[right]
        if expected is None:
            assert float(distance.max()) <= 8 * (1 + 1e-6)
        else:
            assert float(distance.median()) == pytest.approx(expected, rel=1 / 3), name


@pytest.mark.slow
def test_a_bound_is_in_the_attacks_own_norm(files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=10)
    for name, epsilon, p in (("L2PGD", 3.0, 2), ("L1PGD", 12.0, 1), ("LinfPGD", 0.9, torch.inf)):
        found = fmtool.attack(model, data, attack=name, epsilon=epsilon, attack_options={"steps": 5})
        moved = torch.linalg.vector_norm((found["adversarial"] - found["images"]).flatten(1), p, dim=1)
        assert 0.5 * epsilon < float(moved.max()) <= epsilon * (1 + 1e-5)
        assert found.header["norm"] == {2: "l2", 1: "l1", torch.inf: "l-inf"}[p]
    for name, epsilon, largest in (
        ("L2PGD", 8.5, "an l2 distance above 0 and at most 8,"),
        ("L1PGD", 65, "at most 64,"),
        ("FGSM", 2, "at most 1,"),
    ):
        with pytest.raises(AttackError, match=f"--epsilon {epsilon:g}: expected .*{largest}"):
            fmtool.attack(model, data, attack=name, epsilon=epsilon)
    with pytest.raises(AttackError, match="L0FMNAttack takes no --epsilon"):
        fmtool.attack(model, data, attack="L0FMNAttack", epsilon=1, attack_options={"steps": 3})
    with pytest.raises(AttackError, match=r"needs --attack-option distance=l2 \(or l-inf, l1, l0\)"):
        fmtool.attack(model, data, attack="InversionAttack", epsilon=0.5)
    assert (
        fmtool.attack(model, data, attack="InversionAttack", attack_options={"distance": "l1"}).header["norm"] == "l1"
    )
