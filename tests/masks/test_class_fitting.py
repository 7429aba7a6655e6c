"""Class masks against a loop over the full batch, when they stop, and images that don't fit into memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dying import Dying, Killed, through
from half_spectrum import to_full
from reference import fit_class, random_resnet
from torch import Tensor, nn

from fmtool.datasets.rows import RowView
from fmtool.errors import ArtifactError, MaskError
from fmtool.masks import class_fitting
from fmtool.masks.class_fitting import ClassMasks, Part, fit_class_masks
from fmtool.masks.optimisation import FitOptions
from fmtool.runtime.journal import NO_JOURNAL, Journal

OPTIONS: dict[str, Any] = {"min_steps": 3, "max_steps": 60, "tolerance": 0.2}


@pytest.fixture
def parts() -> list[Part]:
    """Two parts of three classes of unequal sizes; none of class 2 in the first."""
    draw = torch.Generator().manual_seed(5)
    turned, clean = torch.rand(11, 2, 10, 8, generator=draw), torch.rand(23, 2, 10, 8, generator=draw)
    owners, labels = torch.arange(11) % 2, torch.arange(23) % 3
    return [Part(turned, (owners + 1) % 3, owners), Part(clean, labels, labels)]


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3))
    return network.eval().requires_grad_(False)


def equal(one: ClassMasks, other: ClassMasks) -> bool:
    return all(
        torch.equal(values.nan_to_num(-1), getattr(other, name).nan_to_num(-1))
        for name, values in one.tensors().items()
    )


class Counted(RowView):
    """Images that are read on demand, and how many at most at once."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images, torch.arange(len(images)), lambda some: some, images.shape[1])
        self.most = self.reads = 0

    def __getitem__(self, rows: Any) -> Tensor:
        some = super().__getitem__(rows)
        self.most, self.reads = max(self.most, len(some)), self.reads + len(some)
        return some


@pytest.mark.slow
@pytest.mark.parametrize("batch", [4, 7, 64])
def test_class_masks_follow_the_full_batch_loop_in_float64(batch: int) -> None:
    """Accumulated over micro-batches, all classes at once: equal to the obvious loop to 1e-9 over 50 optimiser steps."""
    classifier = random_resnet(1, torch.float64)
    draw = torch.Generator().manual_seed(5)
    clean = torch.rand(12, 1, 8, 8, dtype=torch.float64, generator=draw)
    turned = torch.rand(9, 1, 8, 8, dtype=torch.float64, generator=draw)
    labels, owners = torch.arange(12) % 3, torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 0])  # class 2 has none turned to it
    truth = (owners + 1) % 3
    parts = [Part(turned, truth, owners), Part(clean, labels, labels)]
    found = fit_class_masks(
        classifier, parts, range(4), FitOptions(0.01, batch, min_steps=0, max_steps=24, tolerance=0)
    )
    assert found.steps.tolist() == [25, 25, 25, 0]  # nothing of class 3
    for number in range(3):
        own = [(turned[owners == number], truth[owners == number])] if number < 2 else []
        own.append((clean[labels == number], labels[labels == number]))
        reference = fit_class(classifier, own, 0.01, 25)
        torch.testing.assert_close(to_full(found.masks[number], 8), reference, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_class_mask_stops_on_its_own() -> None:
    classifier = random_resnet(1, torch.float32)
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(6))
    labels = torch.arange(8) % 2
    part = [Part(images, labels, labels)]
    found = fit_class_masks(
        classifier, part, range(2), FitOptions(0.01, 8, min_steps=40, max_steps=1000, tolerance=1e-3)
    )
    alone = fit_class_masks(
        classifier, [Part(images[labels == 1], labels[labels == 1], labels[labels == 1])], [1],
        FitOptions(0.01, 8, min_steps=40, max_steps=1000, tolerance=1e-3),
    )  # fmt: skip
    assert int(found.steps[1]) == int(alone.steps[0]) != int(found.steps[0])
    assert torch.equal(found.masks[1], alone.masks[0]) and torch.equal(found.loss[1], alone.loss[0])
    assert bool(found.converged.all())


def test_no_image_is_an_error() -> None:
    with pytest.raises(MaskError, match=r"^no image is left to fit a class mask to$"):
        fit_class_masks(nn.Identity(), [], range(3), FitOptions(0.1, 4, 1, 2))


class ReadsMean(nn.Module):
    """Two logits, which differ by the mean of the image."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def test_a_class_keeps_what_tells_it_and_one_without_images_keeps_all() -> None:
    """The mean is the zero frequency: all else is given up by the penalty."""
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(6, dtype=torch.int64)
    parts = [Part(images, ones, ones)]
    told: list[tuple[str, int, int]] = []
    found = fit_class_masks(
        ReadsMean(), parts, range(3), FitOptions(0.01, 4, 0, 149, tolerance=0), progress=lambda *said: told.append(said)
    )
    kept = (found.masks[1] > 1e-3).nonzero().tolist()
    assert kept == [[0, 0, 0]] and float(found.masks[1, 0, 0, 0]) == 1
    assert torch.equal(found.masks[[0, 2]], torch.ones(2, 1, 4, 3)) and found.steps.tolist() == [0, 150, 0]
    assert not bool(found.converged.any()) and bool(found.loss[[0, 2]].isnan().all())
    expected = F.cross_entropy(ReadsMean()(images), ones) + 0.01  # of the last step: the one entry that is left
    assert float(found.loss[1]) == pytest.approx(float(expected), abs=1e-6)
    assert [(done, total) for _, done, total in told[:3]] == [(4, 900), (6, 900), (10, 900)] and told[-1][1] == 900


def test_a_fit_that_is_killed_gives_the_same_masks() -> None:
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0])
    part, options = [Part(images, labels, labels)], FitOptions(0.05, 4, 0, 30)

    def fit(journal: Journal) -> ClassMasks:
        return fit_class_masks(ReadsMean(), part, range(2), options, journal=journal)

    undisturbed, journal = Dying(()), Dying([0, 7, 8, 20])
    whole = fit(undisturbed)
    for _ in journal.deaths:
        with pytest.raises(Killed):
            fit(journal)
    again = fit(journal)
    assert journal.saves == undisturbed.saves  # nothing is computed twice
    for name in ("masks", "steps", "loss", "converged"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_a_class_that_one_part_lacks_is_fitted_to_the_other_alone() -> None:
    """Neither its steps nor its loss count the part without its images."""
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    owners = torch.zeros(2, dtype=torch.int64)
    first, second = Part(images[:2], owners, owners), Part(images[2:], owners + 1, owners + 1)
    options = FitOptions(0.05, 4, 0, 20, tolerance=0)
    both = fit_class_masks(ReadsMean(), [first, second], range(2), options)
    alone = fit_class_masks(ReadsMean(), [second], range(2), options)
    for name in ("masks", "steps", "loss"):
        torch.testing.assert_close(getattr(both, name)[1], getattr(alone, name)[1], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["fourier", "dct", "haar", "phase"])
def test_coefficients_that_do_not_fit_give_the_same_bits(
    basis: str, parts: list[Part], classifier: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FitOptions(0.01, 4, basis=basis, **OPTIONS)
    held = fit_class_masks(classifier, parts, range(3), options)
    monkeypatch.setattr(class_fitting, "HELD", 0)
    lazy = [Part(Counted(part.images), part.targets, part.owners) for part in parts]
    assert equal(fit_class_masks(classifier, lazy, range(3), options), held)
    assert all(part.images.most <= 4 < part.images.reads for part in lazy)


@pytest.mark.slow
def test_a_class_has_the_same_bits_whatever_others_share_its_batches(parts: list[Part], classifier: nn.Module) -> None:
    options = FitOptions(0.01, 4, **OPTIONS)
    whole = fit_class_masks(classifier, parts, range(3), options)
    assert len(set(whole.steps.tolist())) > 1, whole.steps
    for classes in ([0], [2, 1], [1]):
        some = fit_class_masks(classifier, parts, classes, options)
        assert all(torch.equal(values, getattr(whole, name)[classes]) for name, values in some.tensors().items())


def test_only_the_classes_that_are_fitted_take_memory(parts: list[Part], classifier: nn.Module) -> None:
    """A network may have a thousand classes and the data ten: the resume file holds no other masks, nor coefficients."""
    options, journal = FitOptions(0.01, 4, **OPTIONS), Dying([2])
    many = [Part(part.images, part.targets, 400 * part.owners) for part in parts]
    with pytest.raises(Killed):
        fit_class_masks(classifier, many, [800], options, journal=journal)
    state = journal.load()
    assert state and {len(values) for values in state.values() if values.ndim} == {1}, state.keys()


def test_killed_in_the_middle_of_steps_it_gives_the_same_bits(parts: list[Part], classifier: nn.Module) -> None:
    """A step of 34 images in batches of 4 is 3 and 6 of them: the deaths are in all places of it."""
    options = FitOptions(0.01, 4, **OPTIONS)

    def fit(journal: Journal) -> ClassMasks:
        return fit_class_masks(classifier, parts, range(3), options, journal=journal)

    assert equal(through(fit, [0, 2, 4, 8, 9, 15, 27]), fit(NO_JOURNAL))


@pytest.mark.parametrize("max_steps", [9, 40])
@pytest.mark.parametrize("death", [10 * 7 + 4, 10 * 21 - 1])  # in the eighth of 21 steps, and after the last one
def test_resumed_with_another_limit_it_gives_what_that_limit_gives(
    death: int, max_steps: int, parts: list[Part], classifier: nn.Module
) -> None:
    options = FitOptions(0.01, 4, min_steps=3, max_steps=20, tolerance=1e-9)
    other = replace(options, max_steps=max_steps)
    journal = Dying([death])
    with pytest.raises(Killed):
        fit_class_masks(classifier, parts, range(3), options, journal=journal)
    if death > 10 * (max_steps + 1):
        with pytest.raises(
            ArtifactError, match="--max-steps 9: 21 steps have been begun: expected 20 or more, or --restart"
        ):
            fit_class_masks(classifier, parts, range(3), other, journal=journal)
        assert equal(
            fit_class_masks(classifier, parts, range(3), options, journal=journal),
            fit_class_masks(classifier, parts, range(3), options),
        )
    else:
        whole = fit_class_masks(classifier, parts, range(3), other)
        assert whole.steps.tolist() == [max_steps + 1] * 3
        assert equal(fit_class_masks(classifier, parts, range(3), other, journal=journal), whole)


def test_a_class_whose_loss_is_not_finite_ends_and_leaves_the_others_alone(
    parts: list[Part], classifier: nn.Module
) -> None:
    class Undefined(nn.Module):
        """NaN for bright images."""

        def forward(self, images: Tensor) -> Tensor:
            return classifier(images) + (10 - images.flatten(1).amax(dim=1, keepdim=True)).sqrt()

    for part in parts:
        part.images[part.owners == 1] += 20  # type: ignore[index, operator]
    options = FitOptions(0.1, 4, **OPTIONS)
    found = fit_class_masks(Undefined().eval(), parts, range(3), options)
    assert found.steps[1] == 1 and not found.converged[1] and not found.masks[1].isfinite().any()
    others = fit_class_masks(Undefined().eval(), parts, [0, 2], options)
    for name, values in found.tensors().items():
        assert torch.equal(values[[0, 2]], getattr(others, name)), name
