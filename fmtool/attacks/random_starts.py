"""Draw random starts, each image's from its own seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """For attacks that draw from torch's own generator; keyed by the batch's first image."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def starts(shape: Sequence[int], seeds: list[int]) -> Tensor:
    """(n, c, h, w) float32, uniform on [-1, 1], each image's from its own seed."""
    import torch

    drawn = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn) * 2 - 1
