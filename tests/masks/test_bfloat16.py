"""Fits in bfloat16, which float32 passes stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from half_spectrum import filter_images
from torch import Tensor, nn

from fmtool.masks.fitting import fit_masks
from fmtool.masks.levels import unfiltered
from fmtool.masks.optimisation import JUDGE_EVERY, FitOptions

Known = tuple[nn.Module, Tensor, Tensor]
OPTIONS = FitOptions(0.1, 1, min_steps=45, max_steps=300, precision="bfloat16")


@pytest.fixture
def known(trained: Known) -> Known:
    """Few of the images."""
    classifier, images, labels = trained
    return classifier, images[:7], labels[:7]


def test_a_float32_pass_every_so_many_of_its_own_steps_stops_a_mask(known: Known) -> None:
    found = fit_masks(*known, OPTIONS)
    stopped = found.steps[found.converged]
    assert len(stopped) and bool((stopped > OPTIONS.min_steps).all()) and not bool((stopped % JUDGE_EVERY).any())
    assert bool((found.steps[~found.converged] == OPTIONS.max_steps + 1).all())
    soon = fit_masks(*known, replace(OPTIONS, tolerance=1e9))
    assert soon.steps.tolist() == [60] * 7 and bool(soon.converged.all())


def test_loss_and_class_of_the_stored_mask_are_float32s(known: Known) -> None:
    classifier, images, targets = known
    found = fit_masks(classifier, images, targets, OPTIONS)
    filtered = filter_images(images, found.masks)
    logits = classifier(filtered)
    weights = torch.tensor([1.0, 2, 2, 2, 1])  # of the columns of 8x8 images in the full spectrum
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    losses += OPTIONS.lambda_ * (found.masks * weights).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found.loss, losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.preserved_stored, logits.argmax(1) == targets)


def test_a_mask_is_bitwise_the_same_in_any_slot_beside_any_mates(known: Known) -> None:
    classifier, images, targets = known
    expected = fit_masks(classifier, images, targets, OPTIONS)
    turned = fit_masks(classifier, images.flip(0), targets.flip(0), OPTIONS)
    fewer = fit_masks(classifier, images[2:5], targets[2:5], OPTIONS)
    for name, values in vars(expected).items():
        assert torch.equal(getattr(turned, name).flip(0), values), name
        assert torch.equal(getattr(fewer, name), values[2:5]), name


def test_the_unfiltered_logits_are_those_of_the_float32_pass_that_judges(known: Known) -> None:
    classifier, images, _ = known
    options = replace(OPTIONS, objective="invariance")
    logits = unfiltered(classifier, options, torch.device("cpu"))(images[0])
    assert torch.equal(logits, classifier(images[:1])[0])
