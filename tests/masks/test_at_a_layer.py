"""Masks of a layer's output: what the engine fits to activations, against the same network written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from half_spectrum import to_full
from reference import fit_one
from torch import Tensor, nn

from fmtool.masks.fitting import FittedMasks, fit_masks
from fmtool.masks.optimisation import FitOptions
from fmtool.models.classifier import Classifier, prepare
from fmtool.models.layers import Activations, cut

CPU = torch.device("cpu")


class ReadsOne(nn.Module):
    """Two classes told apart by one coefficient of the second channel of what its layer gives: a sine's part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 3, 2, stride=2), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        value = torch.fft.rfft2(self.layer(images))[:, 1, 2, 1].imag
        return 8 * torch.stack([-value, value], dim=1)


class Towards(nn.Module):
    """A small network that first does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.conv = nn.Identity(), nn.Conv2d(2, 8, 3, padding=1)
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(self.start(images))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def seeded(network: nn.Module) -> Classifier:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return Classifier(network).eval().requires_grad_(False)


class Pooled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.square().mean(dim=(2, 3)))
        return logits


@pytest.mark.slow
def test_of_a_rest_that_reads_one_coefficient_that_one_is_kept() -> None:
    torch.manual_seed(0)
    whole = seeded(ReadsOne())
    halves = cut(whole, "layer", (1, 16, 16), CPU)
    assert halves.shape == (3, 8, 8)
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    targets = whole(images).argmax(1)
    options = FitOptions(0.01, 4, min_steps=200, max_steps=1500)
    fitted = fit_masks(halves.rest, Activations(images, halves, CPU), targets, options)
    assert bool(fitted.preserved_stored.all())
    kept = fitted.masks > 1e-3
    assert bool(kept[:, 1, 2, 1].all()) and kept.sum().item() == 6


@pytest.mark.slow
@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=[pytest.mark.processes, pytest.mark.long])])
def test_behind_a_layer_that_does_nothing_the_masks_are_bitwise_the_images(compile_: bool) -> None:
    torch.manual_seed(1)
    whole = seeded(Towards())
    images = torch.rand(10, 2, 8, 9, generator=torch.Generator().manual_seed(2))
    targets = whole(images).argmax(1)
    options = FitOptions(0.02, 4, min_steps=100, max_steps=300, compile_=compile_)
    plain = fit_masks(prepare(whole, CPU, (2, 8, 9)), images, targets, options)
    halves = cut(whole, "start", (2, 8, 9), CPU)
    at_layer = fit_masks(halves.rest, Activations(images, halves, CPU), targets, options)
    assert int(plain.steps.max()) > int(plain.steps.min()) >= 100
    for name in FittedMasks.__dataclass_fields__:
        assert torch.equal(getattr(plain, name), getattr(at_layer, name)), name


def test_follows_autograd_through_the_rest_written_out_for_fifty_steps() -> None:
    """In float64, to 1e-9: the one-image loop over the full spectrum, on modules called one after the other."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), Pooled(6))
    halves = cut(seeded(network), "1", (1, 9, 8), CPU)
    network.double()
    images = torch.rand(3, 1, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    activations, rest = network[:2](images), network[2:]
    assert halves.shape == (3, 7, 6)
    targets = torch.tensor([0, 3, 1])
    fitted = fit_masks(halves.rest.double(), activations, targets, FitOptions(0.05, 2, min_steps=0, max_steps=49))
    for row in range(3):
        loop = fit_one(rest, activations[row], int(targets[row]), 0.05, min_steps=50, max_steps=49)
        torch.testing.assert_close(to_full(fitted.masks[row], 6), loop.mask, rtol=0, atol=1e-9)
        assert float(fitted.loss[row]) == pytest.approx(loop.loss, abs=1e-9)
