"""The Fourier basis as plain functions of half-spectrum masks, for tests: (..., h, w // 2 + 1), zero frequency in the corner."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.registry import FOURIER


def fourier(h: int, w: int) -> Basis:
    return basis_for(FOURIER, h, w)


def filter_images(images: Tensor, masks: Tensor) -> Tensor:
    return fourier(*images.shape[-2:]).filter(images, masks)


def to_full(masks: Tensor, w: int) -> Tensor:
    return fourier(masks.shape[-2], w).to_full(masks)


def shifted(masks: Tensor, w: int) -> Tensor:
    return fourier(masks.shape[-2], w).picture(masks)


def symmetrise_(masks: Tensor, w: int) -> Tensor:
    return fourier(masks.shape[-2], w).symmetrise_(masks)


def kept_entries(masks: Tensor, w: int) -> np.ndarray:
    return fourier(masks.shape[-2], w).kept_entries(masks)
