"""Draw random starts, each image's from its own seed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fmtool.models.foreign_code import generators_kept


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """For attacks that draw from torch's or NumPy's own generator; keyed by the batch's first image."""
    with generators_kept([device] if device.type == "cuda" else []):
        np.random.seed(seed % 2**32)  # the generator that Foolbox draws from
        torch.manual_seed(seed)
        yield


def starts(shape: Sequence[int], seeds: list[int], norm: str | None = None) -> Tensor:
    """(n, c, h, w) float32, each image's from its own seed: uniform in the unit ball of "l1" or "l2", otherwise on [-1, 1]."""
    draw = {"l1": _in_l1_ball, "l2": _in_l2_ball}.get(norm or "", _in_cube)
    drawn = [draw(math.prod(shape), torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).view(-1, *shape)


def _in_cube(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * 2 - 1


def _in_l2_ball(n: int, generator: torch.Generator) -> Tensor:
    """The first n coordinates of a point on the sphere of n + 2 dimensions are uniform in the ball of n (Voelker et al. 2017)."""
    point = torch.randn(n + 2, generator=generator)
    inside: Tensor = (point / point.norm())[:n]
    return inside


def _in_l1_ball(n: int, generator: torch.Generator) -> Tensor:
    """The gaps between n sorted uniform numbers, each with a random sign."""
    places = torch.rand(n, generator=generator, dtype=torch.float64).sort().values
    gaps = places.diff(prepend=places.new_zeros(1))
    return (gaps * (2 * torch.randint(0, 2, (n,), generator=generator) - 1)).float()
