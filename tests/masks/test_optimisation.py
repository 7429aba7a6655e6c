"""The components of a step: Adam against torch's, the penalty, the stopping test, the gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from half_spectrum import fourier, to_full
from torch import nn

from fmtool.masks.optimisation import (
    LEARNING_RATE,
    WINDOW,
    Adam,
    FitOptions,
    l1_norm,
    passes_for_batches,
    settled,
    unimproved,
)

CPU = torch.device("cpu")
SHAPE = (3, 1, 2, 4)


def slopes(steps: int) -> list[torch.Tensor]:
    return list(torch.randn(steps, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def test_adam_is_torchs_with_a_clamp_and_a_step_count_for_each_mask() -> None:
    """The second mask rests in every other step, as if these had not been for it."""
    adam = Adam.fresh(SHAPE, torch.float64, CPU)
    masks = [torch.ones(SHAPE[1:], dtype=torch.float64, requires_grad=True) for _ in range(3)]
    optimisers = [torch.optim.Adam([mask], lr=LEARNING_RATE) for mask in masks]
    for number, slope in enumerate(slopes(40)):
        active = torch.tensor([True, number % 2 == 0, True])
        adam.step_some(slope, active)
        for row in active.nonzero().flatten().tolist():
            masks[row].grad = slope[row].clone()
            optimisers[row].step()
            with torch.no_grad():
                masks[row].clamp_(0, 1)
    torch.testing.assert_close(adam.masks, torch.stack([mask.detach() for mask in masks]), rtol=0, atol=1e-12)
    assert adam.steps.tolist() == [40, 20, 40] and 0 <= float(adam.masks.min()) < 1


def test_a_mask_that_has_finished_does_not_move() -> None:
    adam = Adam.fresh(SHAPE, torch.float64, CPU)
    for slope in slopes(3):
        adam.step(slope, torch.ones(3, dtype=torch.bool))
    before = adam.masks.clone()
    adam.step(slopes(1)[0], torch.tensor([False, True, False]))
    assert torch.equal(adam.masks[[0, 2]], before[[0, 2]]) and not torch.equal(adam.masks[1], before[1])
    assert adam.steps.tolist() == [3, 4, 3]


@pytest.mark.parametrize(("h", "w"), [(4, 6), (5, 3)])
def test_the_penalty_is_the_sum_of_the_full_mask(h: int, w: int) -> None:
    basis = fourier(h, w)
    masks = basis.symmetrise_(torch.rand(2, 3, *basis.shape, dtype=torch.float64))
    expected = to_full(masks, w).sum(dim=(1, 2, 3))
    torch.testing.assert_close(l1_norm(masks, basis.weights(torch.float64, CPU)), expected)


def test_a_mask_settles_when_its_loss_is_near_the_mean_of_the_last_twenty() -> None:
    losses = torch.full((4, WINDOW), 2.0, dtype=torch.float64)
    losses[1, 0] = torch.nan  # there are fewer
    losses[2, -1] = 2.5
    steps = torch.tensor([31, 31, 31, 30])
    options = FitOptions(0.1, 4, min_steps=30, max_steps=99, tolerance=0.1)
    assert settled(losses, options, steps).tolist() == [True, False, False, False]
    wide = FitOptions(0.1, 4, min_steps=30, max_steps=99, tolerance=0.5)
    assert settled(losses, wide, steps).tolist() == [True, False, True, False]


def test_a_mask_in_bfloat16_stops_when_its_float32_loss_is_not_below_the_one_before() -> None:
    losses = torch.full((4, WINDOW), 2.0, dtype=torch.float64)
    losses[1, -1] = 1.8
    losses[2, -2] = torch.nan  # it is the first
    steps = torch.tensor([40, 40, 40, 20])
    options = FitOptions(0.1, 4, min_steps=30, max_steps=99, tolerance=0.1)
    assert unimproved(losses, options, steps).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("objective", "tolerance"), [("label", 1e-5), ("distribution", 1e-5)])
def test_the_usual_tolerance_is_the_objectives(objective: str, tolerance: float) -> None:
    options = FitOptions(0.1, 4, min_steps=0, max_steps=9, objective=objective)
    losses = torch.zeros(2, WINDOW, dtype=torch.float64)
    losses[:, -1] = torch.tensor([0.9, 1.1]) * tolerance * WINDOW / (WINDOW - 1)
    assert settled(losses, options, torch.tensor([1, 1])).tolist() == [True, False]


def test_the_gradient_is_that_of_each_images_own_loss() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval().requires_grad_(False)
    images, targets = torch.rand(5, 3, 2, 2), torch.tensor([0, 3, 1, 1, 2])
    passes, _ = passes_for_batches(network, (3, 2, 2), torch.float32, FitOptions(0.1, 5, 0, 9), CPU)
    losses, logits, gradient = passes(images, targets)
    leaf = images.clone().requires_grad_()
    each = F.cross_entropy(network(leaf), targets, reduction="none")
    (expected,) = torch.autograd.grad(each.sum(), leaf)
    torch.testing.assert_close(losses, each.detach())
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(logits, network(images))
