"""Masks of phases: |F x| stays, and the mask multiplies the angle; 1 is the identity, 0 the zero-phase image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmtool.masks.bases.fourier import Fourier
from fmtool.masks.basis import Basis

if TYPE_CHECKING:
    from torch import Tensor


class Phase(Fourier):
    """x_M = Re(F^-1(|F x| exp(i M arg F x))), stored on half the spectrum as masks of the Fourier basis are.

    Coefficients are complex only for storage: the real part is |F x|, the imaginary part arg F x in [-pi, pi].
    """

    def analyse(self, images: Tensor) -> Tensor:
        import torch

        spectra = super().analyse(images)
        angle = spectra.angle().flatten(-2)
        for places, mirrors in self.orbits()[1:]:
            # angles at k and -k are opposite; at a negative real coefficient rounding could make both of them pi
            twice = mirrors != places
            angle[..., mirrors[twice].to(angle.device)] = -angle[..., places[twice].to(angle.device)]
        return torch.complex(spectra.abs(), angle.view(spectra.shape))

    def synthesise(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        import torch

        images: Tensor = torch.fft.irfft2(self._spectra(masks, coefficients), s=(self.h, self.w))
        return images

    def gradient(self, slope: Tensor, masks: Tensor, coefficients: Tensor) -> Tensor:
        """dL/dM = arg F x * Im(F(dL/dx_M) * conj(F x_M)) / (h w)."""
        turned, filtered = super().analyse(slope), self._spectra(masks, coefficients)
        product = (turned.imag * filtered.real).addcmul_(turned.real, filtered.imag, value=-1)
        return product.mul_(coefficients.imag).div_(self.h * self.w)

    def magnitudes(self, images: Tensor) -> Tensor:
        return super().analyse(images).abs()

    def pool(self, full: Tensor, p: int) -> Tensor:
        """Refused: the paper's mean over neighbours is of factors of amplitudes, not of angles."""
        return Basis.pool(self, full, p)

    def _spectra(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        import torch

        angle = masks * coefficients.imag
        return torch.polar(coefficients.real.expand(angle.shape), angle)
