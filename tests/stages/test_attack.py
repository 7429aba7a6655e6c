"""The stage of attacks: bounds, options that are recorded or refused, and real images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from attacking import CPU

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.attacks import registry
from fmtool.attacks.registry import WRONG_BEFORE
from fmtool.errors import AttackError
from fmtool.runtime.shards import Shard

MASKS = Artifact("class-masks", {}, {}, [])  # of no consequence


@pytest.mark.slow
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
    ("text", "message"),
    [
        ("1e999", "rel_stepsize: expected a number of at most 1e.300"),
        ("-1e301", "rel_stepsize: expected a number"),
        ("0x" + "f" * 5000, "rel_stepsize: expected a number"),  # too long to print
        ("'\\ud800'", r"rel_stepsize: expected printable text, got '.ud800'"),
        ("{[]: 1}", "rel_stepsize: expected a number, got"),  # no literal, and so text
        ("abc", "rel_stepsize: expected a number, got .abc"),
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


def test_bounds_where_there_are_none_or_must_be(files: Path) -> None:
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
    with pytest.raises(AttackError, match=r"^--epsilon: SpatialAttack has no distance to bound$"):
        fmtool.attack(model, data, attack="SpatialAttack", epsilon=0.05)
    with pytest.raises(AttackError, match=r"^--epsilon: PointwiseAttack has no distance to bound$"):
        fmtool.attack(model, data, attack="PointwiseAttack", epsilon=0.05)
    for epsilon in (0.5, 2):  # also one that may be too large, which only the distance can tell
        with pytest.raises(AttackError, match=r"needs --attack-option distance=l2 \(or l-inf, l1, l0\)"):
            fmtool.attack(model, data, attack="InversionAttack", epsilon=epsilon)
    assert (
        fmtool.attack(model, data, attack="InversionAttack", attack_options={"distance": "l1"}).header["norm"] == "l1"
    )


def data_of(n: int = 2) -> fmtool.Data:
    return fmtool.load_data("digits:test", limit=n)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "fmn", "epsilon": 0.1}, r"^--epsilon: fmn minimises the perturbation and takes no bound$"),
        ({"restarts": 3}, r"^--restarts requires --defense$"),
        ({"attack": "fmn", "defense": MASKS}, r"^--defense requires --attack pgd, got fmn$"),
        ({"defense": MASKS, "restarts": 0}, r"^--restarts 0: expected a number of at least 1$"),
        (
            {"defense": MASKS, "attack_options": {"random_start": False}},
            r"^random_start=False makes all restarts identical: expected --restarts 1$",
        ),
        (
            {"attack": "L2CarliniWagnerAttack", "execution": fmtool.Execution(shard=Shard(1, 2))},
            r"^L2CarliniWagnerAttack isn't known to attack each image on its own: --shard and torchrun might change its results$",
        ),
        (
            {"attack": "SparseL1DescentAttack", "epsilon": 10.0, "execution": fmtool.Execution(shard=Shard(1, 2))},
            r"^SparseL1DescentAttack isn't known to attack each image on its own",
        ),
        (
            {"attack": "pgd", "attack_options": {"random_start": "false"}},
            r"^--attack-option random_start: expected True or False, got 'false'$",
        ),
    ],
)
def test_options_that_exclude_one_another_are_refused_before_the_work(options: dict[str, Any], message: str) -> None:
    """The model is not looked at."""
    with pytest.raises(AttackError, match=message):
        fmtool.attack(None, data_of(), **options)  # type: ignore[arg-type]
