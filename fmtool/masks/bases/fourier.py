"""The Fourier basis, on half the spectrum (paper, section 3.1).

A mask of h x w images is stored as the half spectrum that `torch.fft.rfft2` lays out, (..., h, w // 2 + 1), zero frequency in
the corner. Images are real, so the full spectrum's mask obeys M(-k) = M(k) and the half determines it: column 0, and column
w / 2 for even w, hold their own mirror images and count once, the columns between count twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fmtool.errors import MaskError
from fmtool.masks.basis import EXACT, Array, Basis

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Fourier(Basis):
    """Discrete Fourier coefficients, without a factor in the forward transform."""

    axes = "frequency in cycles per pixel"
    ticks = (-0.4, 0.0, 0.4)

    @property
    def shape(self) -> tuple[int, int]:
        return self.h, self.w // 2 + 1

    @property
    def self_mirrored(self) -> list[int]:
        """The columns that are their own mirror images: 0, and w / 2 for even w."""
        return [0, self.w // 2] if self.w % 2 == 0 else [0]

    @property
    def counts(self) -> Array:
        counts = np.full(self.shape[1], 2.0)
        counts[self.self_mirrored] = 1
        return counts

    @property
    def frequencies(self) -> Array:
        """From 0 to sqrt(0.5)."""
        radius: Array = np.hypot(np.fft.fftfreq(self.h)[:, None], np.fft.rfftfreq(self.w)).round(EXACT)
        return radius

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Half a bin beyond the outermost frequencies, so that frequency 0 lies in the middle of its bin."""
        y, x = (-(self.h // 2) - 0.5) / self.h, (-(self.w // 2) - 0.5) / self.w
        return x, x + 1, y + 1, y

    def analyse(self, images: Tensor) -> Tensor:
        import torch

        spectra: Tensor = torch.fft.rfft2(images)
        return spectra

    def synthesise(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        """Equation 1: x_F = Re(F^-1(M * F x))."""
        import torch

        images: Tensor = torch.fft.irfft2(masks * coefficients, s=(self.h, self.w))
        return images

    def gradient(self, slope: Tensor, masks: Tensor, coefficients: Tensor) -> Tensor:
        """dL/dM = Re(F(dL/dx_F) * conj(F x)) / (h w)."""
        turned = self.analyse(slope)
        product = (turned.real * coefficients.real).addcmul_(turned.imag, coefficients.imag)
        return product.div_(self.h * self.w)

    def symmetrise_(self, masks: Tensor) -> Tensor:
        mirror = self._mirror_rows(masks.device)
        for column in self.self_mirrored:
            values = masks[..., column]
            masks[..., column] = (values + values[..., mirror]) / 2
        return masks

    def orbits(self) -> list[tuple[Tensor, Tensor]]:
        """Entries k and -k are equal: first those that count once, their own mirror images, then the pairs.

        A pair is stored once in the columns between, without its mirror image, and in two rows of the others.
        """
        import torch

        rows, columns = self.shape
        place = torch.arange(rows * columns)
        mirror = place.clone().view(rows, columns)
        single = torch.zeros(rows, columns, dtype=torch.bool)
        for column in self.self_mirrored:
            mirror[:, column] = mirror[self._mirror_rows(mirror.device), column]
            single[:, column] = True
        mirror = mirror.flatten()
        once = single.flatten() & (place == mirror)
        pair = ~once & (place <= mirror)
        return [(place[some], mirror[some]) for some in (once, pair)]

    def to_full(self, masks: Tensor) -> Tensor:
        """(..., h, w // 2 + 1) to the full spectrum (..., h, w), zero frequency still in the corner."""
        import torch

        interior = masks[..., 1 : (self.w + 1) // 2]
        return torch.cat([masks, interior[..., self._mirror_rows(masks.device), :].flip(-1)], dim=-1)

    def pool(self, full: Tensor, p: int) -> Tensor:
        """Average-pool (..., h, w) full spectra, zero frequency in the corner, by p, which is odd and divides h and w.

        Bin k averages the frequencies p k - (p - 1) / 2 ... p k + (p - 1) / 2 modulo the size, so that the zero frequency stays
        the centre of a bin (paper, section 4.5.2; the authors' code takes the maximum, over bins that start at the corner).
        """
        h, w = self.h, self.w
        if p < 1 or p % 2 == 0 or h % p or w % p:
            raise MaskError(f"--pool {p}: expected an odd number that divides {h} and {w}")
        rolled = full.roll(shifts=(p // 2, p // 2), dims=(-2, -1))
        return rolled.reshape(*full.shape[:-2], h // p, p, w // p, p).mean(dim=(-3, -1))

    def picture(self, masks: Tensor) -> Tensor:
        """The full spectrum (..., h, w) with the zero frequency in the centre."""
        import torch

        full: Tensor = torch.fft.fftshift(self.to_full(masks), dim=(-2, -1))
        return full

    def _mirror_rows(self, device: torch.device) -> Tensor:
        """(h) int64: the row of frequency -k for the row of frequency k."""
        import torch

        return (-torch.arange(self.h, device=device)) % self.h
