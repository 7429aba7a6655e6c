"""The authors' mask fitting in its slowest, most obvious form: the full spectrum, autograd, torch's own Adam."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from authors import fit_one  # the loop that examples/benchmarks times
from torch import Tensor, nn

__all__ = ["fit_class", "fit_one"]


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
