"""What a mask is: its half spectrum, filtering, symmetry, shifting, pooling.

A mask of h x w images is stored as the half spectrum that `torch.fft.rfft2` lays out, (..., h, w // 2 + 1), zero frequency in
the corner, values in [0, 1]. Images are real, so the full spectrum's mask obeys M(-k) = M(k) and the half says it all: column 0,
and column w / 2 for even w, hold their own mirror images and count once, the columns between count twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool.errors import MaskError

KEPT = 1e-3  # an entry above this counts as kept


def half_width(w: int) -> int:
    """Columns of the half spectrum of images w columns wide."""
    return w // 2 + 1


def filter_images(images: Tensor, masks: Tensor) -> Tensor:
    """Equation 1: x_F = Re(F^-1(M * F x)). images (..., h, w) float; masks (..., h, w // 2 + 1), broadcast over the images."""
    h, w = images.shape[-2:]
    filtered: Tensor = torch.fft.irfft2(masks * torch.fft.rfft2(images), s=(h, w))
    return filtered


def column_counts(w: int, like: Tensor) -> Tensor:
    """(w // 2 + 1) how often each column of the half spectrum stands in the full one: 1 or 2. dtype and device of `like`."""
    counts = torch.full((half_width(w),), 2, dtype=like.dtype, device=like.device)
    counts[0] = 1
    if w % 2 == 0:
        counts[-1] = 1
    return counts


def self_mirrored(w: int) -> list[int]:
    """The columns that are their own mirror images: 0, and w / 2 for even w."""
    return [0, w // 2] if w % 2 == 0 else [0]


def mirror_rows(h: int, device: torch.device) -> Tensor:
    """(h) int64: the row of frequency -k for the row of frequency k."""
    return (-torch.arange(h, device=device)) % h


def symmetrise_(half: Tensor, w: int) -> Tensor:
    """Make rows k and -k equal in the columns that mirror themselves, in place: what rounding parts is averaged."""
    mirror = mirror_rows(half.shape[-2], half.device)
    for column in self_mirrored(w):
        values = half[..., column]
        half[..., column] = (values + values[..., mirror]) / 2
    return half


def to_full(half: Tensor, w: int) -> Tensor:
    """(..., h, w // 2 + 1) to the full spectrum (..., h, w), zero frequency still in the corner."""
    interior = half[..., 1 : (w + 1) // 2]
    mirror = mirror_rows(half.shape[-2], half.device)
    return torch.cat([half, interior[..., mirror, :].flip(-1)], dim=-1)


def shifted(half: Tensor, w: int) -> Tensor:
    """The full spectrum (..., h, w) with the zero frequency in the centre, as figures show it."""
    full: Tensor = torch.fft.fftshift(to_full(half, w), dim=(-2, -1))
    return full


def kept_entries(half: Tensor, w: int) -> Tensor:
    """(n) int64: entries above `KEPT` of (n, c, h, w // 2 + 1) masks, counted over the full spectrum."""
    counts = column_counts(w, half)
    return ((half > KEPT) * counts).sum(dim=(-3, -2, -1)).long()


def pool(full: Tensor, p: int) -> Tensor:
    """Average-pool (..., h, w) full spectra, zero frequency in the corner, by p, which is odd and divides h and w.

    Bin k averages the frequencies p k - (p - 1) / 2 ... p k + (p - 1) / 2 modulo the size, so that the zero frequency stays a
    centre (paper, section 4.5.2; the authors' code takes the maximum, over bins that start at the corner).
    """
    h, w = full.shape[-2:]
    if p < 1 or p % 2 == 0 or h % p or w % p:
        raise MaskError(f"--pool {p}: expected an odd number that divides {h} and {w}")
    rolled = full.roll(shifts=(p // 2, p // 2), dims=(-2, -1))
    return rolled.reshape(*full.shape[:-2], h // p, p, w // p, p).mean(dim=(-3, -1))
