"""Attacks that are interrupted, fail in a worker, or find no starting point for an image."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from attacking import CPU, attack
from dying import Dying
from torch import Tensor, nn

import fmtool
from fmtool.attacks import foolbox as attacks
from fmtool.attacks.registry import WRONG_BEFORE
from fmtool.errors import AttackError, FmtoolWarning
from fmtool.runtime.journal import Tensors


def test_an_error_in_a_worker_is_the_commands_error(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    _, images, labels = trained

    class Breaks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                raise RuntimeError("out of luck")
            return torch.nn.functional.one_hot(labels, 10).float()[: len(images)]

    with pytest.raises(AttackError, match="can't run on this classifier, or with such an option: out of luck"):
        attack(Breaks().eval(), images, labels, "fmn")


class Pixel(nn.Module):
    """Of single pixels, none of which is misclassified."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([1 + images, images], dim=1)[..., 0, 0]


class Random(nn.Module):
    """A class that no image decides."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.rand(len(images), 3) + 0 * images.flatten(1).sum(dim=1, keepdim=True)


def test_an_image_that_is_not_attacked_keeps_its_class_whatever_a_random_network_says() -> None:
    """Else it would count as one that withstood."""
    torch.manual_seed(0)
    images, labels = torch.rand(64, 1, 2, 2), torch.arange(64) % 3
    found = attack(Random().eval(), images, labels, "pgd", epsilon=0.1, steps=1)
    before = found.status == WRONG_BEFORE
    assert 20 < before.sum() < 60
    assert torch.equal(found.adversarial_predictions[before], found.clean_predictions[before])


def test_ctrl_c_does_not_wait_for_the_end_of_a_batch() -> None:
    """Which comes after a thousand passes; the classifier is left as it was."""
    passes: list[int] = []

    class Interrupting(Pixel):
        def forward(self, images: Tensor) -> Tensor:
            passes.append(len(images))
            if len(passes) == 10:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.01)
            return super().forward(images)

    classifier, images = Interrupting().eval(), torch.zeros(8, 1, 1, 1)
    with pytest.raises(KeyboardInterrupt):
        attack(classifier, images, torch.zeros(8, dtype=torch.int64), "fmn", batch=4, steps=1000)
    assert 10 <= len(passes) < 1000
    assert not classifier._forward_pre_hooks


def test_batches_that_are_whole_when_ctrl_c_comes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Future[Any]] = []
    submit = ThreadPoolExecutor.submit

    def submitted(*arguments: Any) -> Future[Any]:
        jobs.append(submit(*arguments))
        return jobs[-1]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submitted)

    class Interrupted(Dying):
        came = False

        def finish_all(self, parts: Mapping[str, Tensors], *, again: bool = False) -> None:
            if not self.came:
                self.came = True
                wait(jobs)
                raise KeyboardInterrupt
            super().finish_all(parts, again=again)

    journal, images = Interrupted(()), torch.zeros(6, 1, 1, 1)
    made, _ = attacks.build("pgd", {"steps": 2})
    with pytest.raises(KeyboardInterrupt):
        attacks.perturb_(
            *(Pixel().eval(), images, torch.zeros(6, dtype=torch.int64), torch.arange(6), made),
            epsilon=0.1, row_seeds=list(range(6)), batch=2, device=CPU, journal=journal,
        )  # fmt: skip
    assert len(jobs) == 3 and set(journal.parts) == set("012345")


def test_failures_are_counted_after_a_resumption_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = attacks.build("pgd", {"steps": 2})
    kind, finite = type(made), type(made).run

    def attacked(self: object, model: object, inputs: Any, criterion: object, **more: object) -> Any:
        found = finite(self, model, inputs, criterion, **more).raw
        found[(inputs.raw > 0.5).flatten(1).any(dim=1)] = torch.nan
        return type(inputs)(found)

    monkeypatch.setattr(kind, "run", attacked)
    journal, images = Dying(()), torch.tensor([0.1, 0.9, 0.2, 0.3])[:, None, None, None]
    for _ in range(2):  # the second time from the journal alone
        with pytest.warns(
            FmtoolWarning,
            match="1 of 4 images count as failed attacks: attack LinfProjectedGradientDescentAttack returned",
        ):
            attacks.perturb_(
                *(Pixel().eval(), images.clone(), torch.zeros(4, dtype=torch.int64), torch.arange(4), made),
                epsilon=0.1, row_seeds=list(range(4)), batch=2, device=CPU, journal=journal,
            )  # fmt: skip
    assert set(journal.parts) == set("0123")


@pytest.mark.parametrize("name", ["L1AdamBasicIterativeAttack", "L2AdamBasicIterativeAttack", "L2FMNAttack"])
def test_what_foolbox_does_not_do_is_told(name: str) -> None:
    with pytest.warns(FmtoolWarning, match=f"attack {name}: Foolbox "):
        attacks.build(name, {})


def test_an_attack_that_another_one_begins_draws_what_that_draws() -> None:
    began = attacks.load_foolbox().attacks.LinearSearchBlendedUniformNoiseAttack()
    made, effect = attacks.build("fmn", {"init_attack": began})
    assert not attacks.draws_for_each_image(made) and effect["init_attack"].startswith("<")


@pytest.mark.slow
@pytest.mark.parametrize("message", ["init_attack failed for 31 of 64 inputs", ""])
def test_an_image_without_a_starting_point_is_one_failed_attack(
    files: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are attacked as ever; counts are of the user's images, not of the padded batch."""
    data = fmtool.load_data("digits:test", limit=20)
    model, kind = fmtool.read(str(files / "model.safetensors")), attacks.load_foolbox().attacks.L2CarliniWagnerAttack
    unlucky, batches = data.pixels()[[3, 11]], list[int]()

    def attacked(self: object, model: object, inputs: Any, criterion: object, **_: object) -> Any:
        batches.append(len(inputs))
        if any(torch.equal(one, other) for one in inputs.raw for other in unlucky):
            raise ValueError(message) if message else AssertionError
        return 1 - inputs

    monkeypatch.setattr(kind, "run", attacked)
    with pytest.warns(
        FmtoolWarning, match=r"2 of \d+ images count as failed attacks: attack L2CarliniWagnerAttack can't"
    ):
        found = fmtool.attack(model, data, attack="L2CarliniWagnerAttack")
    right = found["clean_predictions"] == data.labels
    assert right[3] and right[11] and set(batches) == {256}
    assert found["status"][[3, 11]].tolist() == [2, 2]
    assert torch.equal(found["adversarial"][[3, 11]], unlucky)
    others = right.clone()
    others[[3, 11]] = False
    assert torch.equal(found["adversarial"][others], 1 - found["images"][others])
    only = fmtool.load_data("digits:test", limit=20)
    few = dataclasses.replace(only, **{n: getattr(only, n)[[3, 11]] for n in ("images", "labels", "key", "index")})
    with pytest.raises(AttackError, match="can't run on this classifier"):
        fmtool.attack(model, few, attack="L2CarliniWagnerAttack")


class Dark(torch.nn.Module):
    """Calls the darkest of images another class than all others, for no reason that a gradient shows."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        total = images.flatten(1).sum(dim=1)
        return torch.stack([torch.where(total > 0.1, 1.0, -1.0), 0 * total], dim=1)


@pytest.mark.parametrize("name", ["L2CarliniWagnerAttack", "EADAttack"])
def test_an_image_that_was_not_fooled_is_not_black(name: str) -> None:
    """Foolbox returns zeros for it, which here count as another class."""
    made, _ = attacks.build(name, {"steps": 3, "binary_search_steps": 1})
    images, labels = (
        torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)),
        torch.zeros(4, dtype=torch.int64),
    )
    found = attacks.run(
        Dark().eval(), images.clone(), labels, made, epsilon=None, row_seeds=list(range(4)), batch=2, device=CPU
    )
    assert found.status.tolist() == [2] * 4 and torch.equal(torch.as_tensor(found.adversarial[:]), images)


def test_an_image_beyond_any_l0_distance_is_one_failed_attack() -> None:
    """Foolbox raises an IndexError for the whole batch once the bound of one image is its number of values."""
    made, _ = attacks.build("L0FMNAttack", {})
    flat = torch.full((1, 1, 4, 4), 0.9)
    images, labels = torch.cat([flat, torch.full((3, 1, 4, 4), 0.2)]), torch.zeros(4, dtype=torch.int64)

    class Bright(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            total = images.flatten(1) @ torch.linspace(0.5, 1.5, 16)
            return torch.stack([torch.where(total > 12, 9 + 0 * total, 3.5 - total), 0 * total], dim=1)

    found = attacks.run(
        Bright().eval(), images.clone(), labels, made, epsilon=None, row_seeds=list(range(4)), batch=4, device=CPU
    )
    assert found.status.tolist() == [2, 0, 0, 0] and torch.equal(torch.as_tensor(found.adversarial[0:1]), flat)
