"""The authors' mask fitting in its slowest, most obvious form: one image, the full spectrum, autograd, torch's own Adam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Fit:
    """One image's mask (c, h, w), full spectrum, zero frequency in the corner, and how its fit went."""

    mask: Tensor
    steps: int
    loss: float
    preserved: bool
    converged: bool


def fit_one(
    classifier: nn.Module, image: Tensor, target: int, lambda_: float, *, min_steps: int = 500, max_steps: int = 5000,
    channels_last: bool = False,
) -> Fit:  # fmt: skip
    """DESIGN, section 4, "Masks", line by line. channels_last: another memory layout, that is, another rounding."""
    mask = torch.ones_like(image, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=0.01)
    losses: list[float] = []
    step = 0
    while True:
        step += 1
        filtered = torch.fft.ifft2(mask * torch.fft.fft2(image)).real[None]
        if channels_last:
            filtered = filtered.contiguous(memory_format=torch.channels_last)
        logits = classifier(filtered)
        loss = F.cross_entropy(logits, torch.tensor([target])) + lambda_ * mask.abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        losses.append(float(loss.detach()))
        converged = step > min_steps and abs(losses[-1] - sum(losses[-20:]) / 20) < 1e-5
        if converged or step > max_steps:
            break
    return Fit(mask.detach(), step, losses[-1], int(logits.argmax()) == target, converged)


def fit_class(classifier: nn.Module, parts: list[tuple[Tensor, Tensor]], lambda_: float, steps: int) -> Tensor:
    """A class mask (c, h, w) after `steps` steps: in each, an optimiser step on every part's mean loss."""
    mask = torch.ones_like(parts[0][0][0], requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=0.01)
    for _ in range(steps):
        for images, targets in parts:
            filtered = torch.fft.ifft2(mask * torch.fft.fft2(images)).real
            loss = F.cross_entropy(classifier(filtered), targets) + lambda_ * mask.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
    return mask.detach()
