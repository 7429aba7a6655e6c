"""Class masks against a loop over the full batch, and when they stop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dying import through
from half_spectrum import to_full
from reference import fit_class, random_resnet
from torch import Tensor, nn

from fmtool.errors import MaskError
from fmtool.masks.class_fitting import Part, fit_class_masks
from fmtool.masks.optimisation import FitOptions


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
    found = fit_class_masks(classifier, parts, 4, FitOptions(0.01, batch, min_steps=0, max_steps=24, tolerance=0))
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
    found = fit_class_masks(classifier, part, 2, FitOptions(0.01, 8, min_steps=40, max_steps=1000, tolerance=1e-3))
    alone = fit_class_masks(
        classifier, [Part(images[labels == 1], labels[labels == 1], labels[labels == 1])], 2,
        FitOptions(0.01, 8, min_steps=40, max_steps=1000, tolerance=1e-3),
    )  # fmt: skip
    assert int(found.steps[1]) == pytest.approx(int(alone.steps[1]), abs=2)  # roundings may differ
    assert bool(found.converged.all())


def test_no_image_is_an_error() -> None:
    with pytest.raises(MaskError, match=r"^no image is left to fit a class mask to$"):
        fit_class_masks(nn.Identity(), [], 3, FitOptions(0.1, 4, 1, 2))


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
        ReadsMean(), parts, 3, FitOptions(0.01, 4, 0, 149, tolerance=0), progress=lambda *said: told.append(said)
    )
    kept = (found.masks[1] > 1e-3).nonzero().tolist()
    assert kept == [[0, 0, 0]] and float(found.masks[1, 0, 0, 0]) == 1
    assert torch.equal(found.masks[[0, 2]], torch.ones(2, 1, 4, 3)) and found.steps.tolist() == [0, 150, 0]
    assert not bool(found.converged.any()) and bool(found.loss[[0, 2]].isnan().all())
    expected = F.cross_entropy(ReadsMean()(images), ones) + 0.01  # of the last step: the one entry that is left
    assert float(found.loss[1]) == pytest.approx(float(expected), abs=1e-6)
    assert told[0] == ("fitting class masks, steps", 1, 149) and len(told) == 150


def test_a_fit_that_is_killed_gives_the_same_masks() -> None:
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0])
    part, options = [Part(images, labels, labels)], FitOptions(0.05, 4, 0, 30)
    whole = fit_class_masks(ReadsMean(), part, 2, options)
    again = through(lambda journal: fit_class_masks(ReadsMean(), part, 2, options, journal=journal), [0, 7, 8, 20])
    for name in ("masks", "steps", "loss", "converged"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_a_class_that_one_part_lacks_is_fitted_to_the_other_alone() -> None:
    """Neither its steps nor its loss count the part without its images."""
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    owners = torch.zeros(2, dtype=torch.int64)
    first, second = Part(images[:2], owners, owners), Part(images[2:], owners + 1, owners + 1)
    options = FitOptions(0.05, 4, 0, 20, tolerance=0)
    both = fit_class_masks(ReadsMean(), [first, second], 2, options)
    alone = fit_class_masks(ReadsMean(), [second], 2, options)
    for name in ("masks", "steps", "loss"):
        torch.testing.assert_close(getattr(both, name)[1], getattr(alone, name)[1], rtol=0, atol=1e-6)
