"""Attacks on a few images, through fmtool and as Foolbox's documentation calls them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks

CPU = torch.device("cpu")


BOUNDS = (0, 1)


def attack(
    classifier: nn.Module, images: Tensor, labels: Tensor, name: str, *, epsilon: float | None = None, batch: int = 16,
    **options: Any,
) -> attacks.Attacked:  # fmt: skip
    """Through fmtool, with row seeds 0, 1, 2, ..."""
    made, _ = attacks.build(name, options)
    seeds = list(range(len(images)))
    return attacks.run(classifier, images, labels, made, epsilon=epsilon, row_seeds=seeds, batch=batch, device=CPU)


def by_foolbox(classifier: nn.Module, images: Tensor, labels: Tensor, made: Any, epsilon: float | None) -> Tensor:
    """The library as its own documentation calls it."""
    foolbox = attacks.load_foolbox()
    model = foolbox.PyTorchModel(classifier, bounds=BOUNDS, device=CPU)
    _, clipped, _ = made(model, images, labels, epsilons=epsilon)
    return clipped
