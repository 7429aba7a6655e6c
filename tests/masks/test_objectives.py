"""Objectives against their formulas and against autograd over the full mask, and through the command line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Run
from half_spectrum import filter_images, to_full
from reference import random_resnet
from torch import Tensor, nn

import fmtool
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.masks.fitting import FittedMasks, fit_masks
from fmtool.masks.objectives import LARGEST_EXPONENT, objective
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.registry import OBJECTIVES
from fmtool.masks.slots import SlotState
from fmtool.models import compiling


def loss_of(name: str, logits: Tensor, targets: Tensor, unfiltered: Tensor) -> Tensor:
    """A batch of one image, written out."""
    if name == "label":
        return F.cross_entropy(logits, targets)
    if name == "invariance":
        return torch.exp((F.cross_entropy(logits, targets) - F.cross_entropy(unfiltered, targets)) ** 2)
    p, q = unfiltered.softmax(dim=1), logits.softmax(dim=1)
    return (p * (p.log() - q.log())).sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [(8, 8), (9, 6)])
def test_follows_autograd_over_the_full_mask_for_fifty_steps(name: str, size: tuple[int, int]) -> None:
    classifier = random_resnet(3, torch.float64)
    images = torch.rand(3, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 3, 7])
    lambda_ = 10.0 if name == "invariance" else 0.05
    per_entry = lambda_ / (3 * size[0] * size[1]) if name == "invariance" else lambda_
    fitted = fit_masks(classifier, images, targets, FitOptions(lambda_, 2, 0, 49, objective=name))
    for row in range(3):
        image, target = images[row : row + 1], targets[row : row + 1]
        with torch.no_grad():
            unfiltered = classifier(image)
        mask = torch.ones(3, *size, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([mask], lr=0.01)
        for _ in range(50):
            logits = classifier(torch.fft.ifft2(mask * torch.fft.fft2(image)).real)
            loss = loss_of(name, logits, target, unfiltered) + per_entry * mask.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        torch.testing.assert_close(to_full(fitted.masks[row], size[1]), mask.detach(), rtol=0, atol=1e-9)
        assert float(fitted.loss[row]) == pytest.approx(float(loss.detach()), abs=1e-9)


def test_an_exponent_beyond_float32_goes_on_as_a_tangent() -> None:
    """The loss and its gradient stay finite, and meet those of the formula where it ends."""
    # d, the change in cross-entropy from 0, is log(1 + exp(logit))
    below, above = (math.log(math.expm1(LARGEST_EXPONENT**0.5 + step)) for step in (-1e-3, 1e-3))
    logits = torch.tensor([[0.0, 30.0], [0.0, below], [0.0, above]])
    logits.requires_grad_()
    targets, unfiltered = torch.zeros(3, dtype=torch.int64), torch.tensor([[60.0, 0.0]]).expand(3, 2)
    losses = objective("invariance").loss(logits, targets, unfiltered)
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    losses = losses.detach()
    assert bool(torch.isfinite(losses).all()) and bool(torch.isfinite(slope).all())
    assert float(losses[1]) == pytest.approx(float(losses[2]), rel=0.05)
    assert float(slope[1, 1]) == pytest.approx(float(slope[2, 1]), rel=0.05)
    assert float(losses[0]) > float(losses[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["invariance", "distribution"])
def test_a_mask_is_bitwise_the_same_in_any_slot_beside_any_images(
    name: str, trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    classifier, images, labels = trained
    options = FitOptions(0.1, 8, 60, 90, objective=name)
    whole = fit_masks(classifier, images[:20], labels[:20], options)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled = fit_masks(classifier, images[order], labels[order], options)
    few = fit_masks(classifier, images[5:9], labels[5:9], options)
    for field in FittedMasks.__dataclass_fields__:
        assert torch.equal(getattr(whole, field)[order], getattr(shuffled, field)), field
        assert torch.equal(getattr(whole, field)[5:9], getattr(few, field)), field


@pytest.mark.parametrize("name", OBJECTIVES)
def test_another_rounding_is_not_taken_for_another_function(
    name: str, trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where masks are ones, an objective that compares with the unfiltered image has a gradient of mere rounding."""

    def rounding_otherwise(step: Callable[..., None], *_: object) -> Callable[..., None]:
        def call(filtered: Tensor, *state: Tensor) -> None:
            SlotState(*state).masks.mul_(1 + 1e-6)
            step(filtered * (1 + 1e-6), *state)

        return call

    monkeypatch.setattr(compiling, "_graph", rounding_otherwise)
    classifier, images, labels = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error", FmtoolWarning)
        fit_masks(classifier, images[:8], labels[:8].flip(0), FitOptions(1e-5, 8, 1, 1, compile_=True, objective=name))


@pytest.mark.slow
def test_each_objectives_masks_are_the_best_by_it(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """On average over images: the penalised loss of its own masks is below that of masks for another one.

    Labels and softmax are nearly the same to a network that is sure of its images, and are not told apart here.
    """
    classifier, images, labels = trained
    images, labels = images[:16], labels[:16]
    lambdas = {"label": 0.1, "invariance": 4.0, "distribution": 0.1}
    masks = {
        name: fit_masks(classifier, images, labels, FitOptions(lambda_, 8, 300, 400, objective=name)).masks
        for name, lambda_ in lambdas.items()
    }

    def value(name: str, of: str) -> float:
        with torch.no_grad():
            after, before = classifier(filter_images(images, masks[of])), classifier(images)
        per_entry = lambdas[name] / 64 if name == "invariance" else lambdas[name]
        norm = to_full(masks[of], 8).sum(dim=(1, 2, 3))
        return float((objective(name).loss(after, labels, before) + per_entry * norm).mean())

    for name in ("label", "distribution"):
        assert value(name, name) < value(name, "invariance"), name
        assert value("invariance", "invariance") < value("invariance", name), name


@pytest.mark.slow
def test_files_name_their_objective(files: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "masks.safetensors"
    outcome = run(
        *("fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "adversarial", "--limit", 6),
        *("--objective", "invariance", "--min-steps", 5, "--max-steps", 5, "-o", target),
    )
    assert outcome.code == 0 and "lambda 0.07, invariance" in outcome.out, outcome.err
    assert fmtool.read(str(target)).header["objective"] == "invariance"
    assert "--objective invariance" in run("inspect", target, "--history").out


def test_an_unknown_objective_is_named(files: Path) -> None:
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    with pytest.raises(MaskError, match="unknown --objective 'labels'"):
        fmtool.fit_masks(model, attack, objective="labels")


def test_the_square_of_a_steep_slope_fits_float32() -> None:
    """Adam keeps it: infinite, it would hold the entry where it is for the rest of the fit."""
    logits = torch.tensor([[0.0, 25.0]], requires_grad=True)
    loss = objective("invariance").loss(logits, torch.zeros(1, dtype=torch.int64), torch.tensor([[60.0, 0.0]]))
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    of_an_entry = 100 * slope.max()  # a coefficient times a network's slope
    assert slope.max() > 1e15 and bool(torch.isfinite(of_an_entry * of_an_entry))
