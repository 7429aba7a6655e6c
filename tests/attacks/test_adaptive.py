"""Attacks on the two-pass classifier: against a loop written out, against a closed form, and what takes such a file."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from half_spectrum import filter_images, fourier
from torch import Tensor, nn

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.attacks import adaptive as adaptive_attacks
from fmtool.attacks import foolbox
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets import rows
from fmtool.errors import ArtifactError, AttackError, FmtoolWarning
from fmtool.masks.two_pass import TwoPass
from fmtool.runtime import resume_file
from fmtool.runtime.journal import NO_JOURNAL, Journal
from fmtool.stages.device_faults import resuming
from fmtool.stages.options import Execution

CPU = torch.device("cpu")
EPSILON = 0.08
FEW: dict[str, Any] = {"epsilon": EPSILON, "attack_options": {"steps": 8}}


def load(files: Path, name: str) -> Artifact:
    """One of the shared files."""
    return fmtool.read(str(files / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def data() -> Any:
    """Forty test images."""
    return fmtool.load_data("digits:test", limit=40)


@pytest.fixture(scope="module")
def adaptive(files: Path, data: Any) -> Artifact:
    """PGD on the two-pass classifier with the robust masks, five restarts."""
    return fmtool.attack(load(files, "model"), data, defense=load(files, "robust"), **FEW)


class Means(nn.Module):
    """Logits (n, 3) of images of one mean value: class 1 for dark ones, 0 for middling ones, 2 for bright ones."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([0 * mean, 0.3 - mean, 10 * (mean - 0.55)], dim=1)


def attack_means(masks: Tensor, n: int = 6, journal: Journal = NO_JOURNAL) -> adaptive_attacks.Adaptive:
    """The two-pass classifier over `Means`, attacked on `n` middling images of label 1; masks (3, 1, 8, 5)."""
    two_pass = TwoPass(Means(), masks, torch.arange(3), 3, fourier(8, 8)).eval()
    made, _ = foolbox.build("pgd", {})
    return adaptive_attacks.run(
        two_pass, torch.full((n, 1, 8, 8), 0.5), torch.ones(n, dtype=torch.int64), made, epsilon=0.1, restarts=2,
        row_seeds=lambda *trial: [rows.row_seed(0, row, row, *trial) for row in range(n)], batch=4, device=CPU,
        journal=journal,
    )  # fmt: skip


def test_adversarial_images_are_within_epsilon_and_in_range(adaptive: Artifact) -> None:
    distance = (adaptive["adversarial"] - adaptive["images"]).abs().amax(dim=(1, 2, 3))
    assert float(distance.max()) <= EPSILON * (1 + 1e-6)
    assert float(distance[adaptive["status"] == OK].min()) > 0
    assert float(adaptive["adversarial"].min()) >= 0 and float(adaptive["adversarial"].max()) <= 1


@pytest.mark.slow
def test_predictions_are_the_two_pass_networks(files: Path, adaptive: Artifact) -> None:
    """Predict, filter by the predicted class's mask, predict again, one image at a time at the shape it was judged at."""
    from fmtool.stages.prepare import ready_model

    run, robust, labels = (
        ready_model(load(files, "model"), fmtool.Execution(device="cpu")),
        load(files, "robust"),
        adaptive["labels"],
    )

    def predict(image: Tensor) -> int:
        return int(run.classifier(image.expand(run.batch, 1, 8, 8)).argmax(1)[0])

    for images, predictions in (("images", "clean_predictions"), ("adversarial", "adversarial_predictions")):
        found = []
        for image in adaptive[images]:
            place = robust["classes"].tolist().index(predict(image))
            found.append(predict(filter_images(image[None], robust["masks"][place][None])[0]))
        assert adaptive[predictions].tolist() == found
    wrong_before = adaptive["clean_predictions"] != labels
    fooled = adaptive["adversarial_predictions"] != labels
    expected = torch.where(wrong_before, WRONG_BEFORE, torch.where(fooled, OK, FAILED))
    assert torch.equal(adaptive["status"], expected)
    assert torch.equal(adaptive["adversarial"][wrong_before], adaptive["images"][wrong_before])


def test_the_header_says_against_what_and_by_which_way(files: Path, adaptive: Artifact, data: Any) -> None:
    model, robust, field = load(files, "model"), load(files, "robust"), adaptive.header["defense"]
    found = field.pop("found")
    assert field == {"digest": robust.digest, "robust": True, "attack": "fmn", "basis": "fourier", "restarts": 5}
    field["found"] = found
    assert found["two_pass"] + found["class_masks"] == int((adaptive["status"] == OK).sum()) > 0
    assert adaptive.header["attack"] == "pgd" and adaptive.header["options"]["steps"] == 8
    last = adaptive.history[-1]
    assert last["options"]["--restarts"] == 5 and last["seed"] == 0
    assert [entry["digest"] for entry in last["inputs"]] == [model.digest, data.digest, robust.digest]
    assert "defense" not in load(files, "fmn").header


def test_a_damaged_part_is_computed_again_from_the_first_try_on(tmp_path: Path) -> None:
    """Finished tries are not run again for one image: its clean image stood in for the adversarial one."""
    closed, open_ = torch.zeros(1, 8, 5), torch.ones(1, 8, 5)
    masks = torch.stack([closed, closed, open_])
    whole, work = attack_means(masks), Execution(output=str(tmp_path / "x"))
    with suppress(KeyboardInterrupt), resuming(work, {}) as journal:
        attack_means(masks, journal=journal)
        raise KeyboardInterrupt
    path = resume_file._path(str(tmp_path / "x"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("update states set data = zeroblob(length(data)) where name = '3'")
    told = pytest.warns(FmtoolWarning, match="1 saved parts are damaged and will be computed again")
    with told, resuming(work, {}) as journal:
        again = attack_means(masks, journal=journal)
    assert torch.equal(again.attacked.adversarial[:], whole.attacked.adversarial[:])
    assert again.attacked.status.tolist() == [OK] * 6 and again.by_class_masks == 6


def test_a_batch_that_failed_whole_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded of it, and all finished tries were run again."""
    masks = torch.stack([torch.zeros(1, 8, 5), torch.zeros(1, 8, 5), torch.ones(1, 8, 5)])
    work, attack = Execution(output=str(tmp_path / "x")), foolbox._attack_batch
    tried = []

    def of_two_fails(network: Any, made: Any, images: Tensor, *rest: Any) -> Any:
        tried.append(len(images))
        return torch.full_like(images, torch.nan) if len(tried) % 2 == 0 else attack(network, made, images, *rest)

    monkeypatch.setattr(foolbox, "_attack_batch", of_two_fails)
    with suppress(KeyboardInterrupt), resuming(work, {}) as journal:
        first = attack_means(masks, n=8, journal=journal)
        raise KeyboardInterrupt
    calls = len(tried)
    with resuming(work, {}) as journal:
        again = attack_means(masks, n=8, journal=journal)
    assert len(tried) == calls and again.attacked.status.tolist() == first.attacked.status.tolist()


@pytest.mark.slow
def test_the_same_file_from_any_number_of_threads(files: Path, data: Any, set_threads: Callable[[int], None]) -> None:
    digests = set()
    for threads in (1, 2):
        set_threads(threads)
        model, robust = load(files, "model"), load(files, "robust")
        made = fmtool.attack(model, data, defense=robust, restarts=2, **FEW, execution=fmtool.Execution(batch_size=8))
        digests.add(made.digest)
    assert len(digests) == 1


@pytest.mark.slow
def test_an_images_result_hangs_on_the_image_alone(files: Path, adaptive: Artifact, data: Any) -> None:
    """Other mates and another order give the same adversarial image, bit for bit; another seed another one."""
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))[:25]
    some = dataclasses.replace(
        data, images=data.images[order], labels=data.labels[order], key=data.key[order], index=data.index[order]
    )
    model, robust = load(files, "model"), load(files, "robust")
    mixed = fmtool.attack(model, some, defense=robust, **FEW)
    for name in ("adversarial", "adversarial_predictions", "status"):
        assert torch.equal(mixed[name], adaptive[name][order]), name
    other = fmtool.attack(model, some, defense=robust, seed=1, **FEW)
    assert not torch.equal(other["adversarial"], mixed["adversarial"])


@pytest.mark.slow
def test_more_restarts_fool_no_fewer_images(files: Path, adaptive: Artifact, data: Any) -> None:
    """The later starts are added to the same first one: whatever one start fools, five do."""
    once = fmtool.attack(load(files, "model"), data, defense=load(files, "robust"), restarts=1, **FEW)
    assert once.header["defense"]["restarts"] == 1
    assert once.header["defense"]["found"]["two_pass"] <= adaptive.header["defense"]["found"]["two_pass"]
    assert bool((adaptive["status"] == OK)[once["status"] == OK].all())


def test_class_masks_are_tried_one_by_one() -> None:
    """Middling images of label 1 pass mask 0, which blackens them: right, and without a gradient for PGD to follow.

    Through the open mask of another class PGD finds bright ones, which pass the open mask of class 2 and come out wrong.
    """
    closed, open_ = torch.zeros(1, 8, 5), torch.ones(1, 8, 5)
    found = attack_means(torch.stack([closed, closed, open_]))
    assert (found.by_two_pass, found.by_class_masks, found.flat) == (0, 6, 6)
    assert found.attacked.status.tolist() == [OK] * 6
    assert found.attacked.adversarial_predictions.tolist() == [2] * 6
    assert float(found.attacked.adversarial.mean(dim=(1, 2, 3)).min()) > 0.55
    # nothing gets past masks that are all closed, and no mask is followed that isn't there
    found = attack_means(torch.stack([closed, closed, closed]))
    assert (found.by_two_pass, found.by_class_masks, found.flat) == (0, 0, 6)
    assert found.attacked.status.tolist() == [FAILED] * 6
    # an open mask 0 has a gradient and leaves the images as they are: class 0, wrong before
    found = attack_means(torch.stack([open_, closed, open_]))
    assert found.attacked.status.tolist() == [WRONG_BEFORE] * 6 and found.flat == 0


def test_the_choice_of_the_mask_has_no_gradient(files: Path) -> None:
    """The two-pass classifier's gradient is that through the chosen mask, held fixed."""
    from fmtool.masks.two_pass import OneMask
    from fmtool.stages.prepare import ready_model

    run, robust = ready_model(load(files, "model"), fmtool.Execution(device="cpu")), load(files, "robust")
    two_pass = TwoPass(run.classifier, robust["masks"], robust["classes"], 10, fourier(8, 8)).eval()
    image = load(files, "fmn")["images"][:1].clone().requires_grad_()
    chosen = int(run.classifier(image).argmax(1))
    found = [
        torch.autograd.grad(network(image)[0, 3], image)[0]
        for network in (two_pass, OneMask(run.classifier, two_pass.masks[chosen], two_pass.basis).eval())
    ]
    assert torch.equal(found[0], found[1]) and bool((found[0] != 0).any())
    assert two_pass.classes == robust["classes"].tolist()


@pytest.mark.slow
def test_images_without_a_gradient_are_warned_of(files: Path, data: Any) -> None:
    """Masks that are all closed give every image the same class and no gradient."""
    robust = load(files, "robust")
    closed = dataclasses.replace(robust, tensors={**robust.tensors, "masks": torch.zeros_like(robust["masks"])})
    with pytest.warns(
        FmtoolWarning, match=r"\d+ images have a gradient that is zero or not finite where the attack starts"
    ):
        found = fmtool.attack(load(files, "model"), data, defense=closed, restarts=1, **FEW)
    assert set(found["clean_predictions"].tolist()) == {int(found["clean_predictions"][0])}


def test_an_attacker_with_the_masks_does_no_worse(files: Path, adaptive: Artifact, data: Any) -> None:
    model, robust = load(files, "model"), load(files, "robust")
    found = fmtool.defend(model, [fmtool.attack(model, data, attack="pgd", **FEW), adaptive], [robust])
    assert found.header["rows"] == ["clean", "pgd", "adaptive PGD"]
    _, transferred, adapted = (row[1]["accuracy"] for row in found.header["matrix"])
    assert adapted <= transferred


@pytest.mark.slow
def test_masks_of_the_model_are_not_fitted_to_it(files: Path, adaptive: Artifact) -> None:
    """Its predictions and status are another classifier's."""
    model = load(files, "model")
    for refused in (
        lambda: fmtool.fit_masks(model, adaptive, for_="essential"),
        lambda: fmtool.fit_masks(model, adaptive, for_="adversarial"),
        lambda: fmtool.class_masks(model, adaptive),
        lambda: fmtool.class_masks(model, adaptive, robust=True),
    ):
        with pytest.raises(ArtifactError, match="was made against the two-pass defence: its predictions are not"):
            refused()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("fmn", {}, "--defense requires --attack pgd, got fmn"),
        ("LinfBasicIterativeAttack", {}, "--defense requires --attack pgd"),
        (None, {"restarts": 0}, "--restarts 0: expected a number of at least 1"),
        (None, {"attack_options": {"random_start": False}}, "expected --restarts 1"),
    ],
)
def test_what_does_not_go_with_a_defence(
    name: str | None, more: dict[str, Any], message: str, files: Path, data: Any
) -> None:
    with pytest.raises(AttackError, match=message):
        fmtool.attack(load(files, "model"), data, attack=name, defense=load(files, "robust"), **more)


def test_restarts_need_a_defence(files: Path, data: Any) -> None:
    with pytest.raises(AttackError, match="--restarts requires --defense"):
        fmtool.attack(load(files, "model"), data, attack="pgd", restarts=5)


@pytest.mark.slow
def test_masks_of_another_model_are_refused_unless_told_otherwise(files: Path, data: Any) -> None:
    model, robust = load(files, "model"), load(files, "robust")
    bias = model["linear.bias"] + 1e-3
    other = dataclasses.replace(model, tensors={**model.tensors, "linear.bias": bias})
    few = {**FEW, "attack_options": {"steps": 1}, "restarts": 1, "defense": robust}
    with pytest.raises(ArtifactError, match="was made with model"):
        fmtool.attack(other, data, **few)
    allowed = fmtool.attack(other, data, **few, execution=fmtool.Execution(allow_other_model=True))
    assert allowed.header["defense"]["digest"] == robust.digest
