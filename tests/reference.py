"""The authors' mask fitting in its slowest, most obvious form: the full spectrum, autograd, torch's own Adam."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from authors import fit_one  # the loop that examples/benchmarks times
from torch import Tensor, nn

from fmtool.models.classifier import Classifier, prepare
from fmtool.models.resnet import ResNet

__all__ = ["fit_class", "fit_one", "random_resnet"]


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


def random_resnet(channels: int, dtype: torch.dtype) -> nn.Module:
    """A small real ResNet with drawn weights and batch norms that have seen some data."""
    torch.manual_seed(1)
    network = ResNet(channels, 10, blocks=1, width=8)
    network.train()
    for _ in range(20):
        network(torch.rand(32, channels, 9, 9))
    return prepare(Classifier(network, [0.4] * channels, [0.3] * channels), torch.device("cpu"), (channels, 9, 9)).to(
        dtype
    )
