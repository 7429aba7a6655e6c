"""The authors' algorithms in their most obvious form: what fmtool is compared with, in speed here and in numbers by the tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    """One image's mask by autograd and torch's own Adam on the full spectrum (paper, 3.1 and A.3, and the authors' code).

    channels_last: another memory layout, that is, another rounding.
    """
    mask = torch.ones_like(image, requires_grad=True)
    target_ = torch.tensor([target], device=image.device)
    optimizer = torch.optim.Adam([mask], lr=0.01)
    losses: list[float] = []
    step = 0
    while True:
        step += 1
        filtered = torch.fft.ifft2(mask * torch.fft.fft2(image)).real[None]
        if channels_last:
            filtered = filtered.contiguous(memory_format=torch.channels_last)
        logits = classifier(filtered)
        loss = F.cross_entropy(logits, target_) + lambda_ * mask.abs().sum()
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


def two_nn(data: Tensor) -> float:
    """TwoNN of the rows of data (n, d) by the full matrix of distances, anew for each data set."""
    nearest = torch.cdist(data, data).topk(3, largest=False).values[:, 1:].double()
    nearest = nearest[(nearest[:, 0] > 0) & (nearest[:, 0] < nearest[:, 1])]
    ratios = (nearest[:, 1] / nearest[:, 0]).sort().values.log().cpu().numpy()
    fitted = int(0.9 * len(ratios))
    height = -np.log(1 - np.arange(1, fitted + 1) / len(ratios))
    return float(ratios[:fitted] @ height / (ratios[:fitted] @ ratios[:fitted]))
