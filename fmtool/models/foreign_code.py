"""Third-party code in fmtool's process: what it sets for the whole process, and the generators that it may draw from."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fmtool.artifacts.format import plain


def strict_float32() -> None:
    """Compute float32 products in float32 from now on, whatever was set by torch's older or newer names for it."""
    torch.set_float32_matmul_precision("highest")
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    parts: list[Any] = [torch.backends, torch.backends.cuda.matmul, cudnn, mkldnn]
    parts += [getattr(one, name) for one in (cudnn, mkldnn) for name in ("matmul", "conv", "rnn") if hasattr(one, name)]
    for part in parts:
        if part.fp32_precision not in ("none", "ieee"):
            part.fp32_precision = "ieee"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Import or call third-party code, and take back what it sets for the whole process, as research code does at the top of a
    module: filters of warnings, gradients, torch's default dtype and device, and the precision of float32 products.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        strict_float32()


def seed_generators(seed: int) -> None:
    """Seed all generators that a network may draw fresh weights from: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def generator_states() -> dict[str, Any]:
    """The states of NumPy's and Python's generators as JSON values; torch has functions for its own."""
    return {"numpy": [plain(part) for part in np.random.get_state(legacy=True)], "python": random.getstate()}


def restore_generators(states: dict[str, Any]) -> None:
    """Set NumPy's and Python's generators to what `generator_states` gave."""
    np.random.set_state(tuple(states["numpy"]))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
