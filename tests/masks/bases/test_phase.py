"""Masks of phases: amplitudes stay, angles are odd, and the gradient is that of the full mask."""

from __future__ import annotations

import pytest
import torch

from fmtool.masks.basis import basis_for


def test_zero_phases_keep_amplitudes() -> None:
    """The zero-phase image has all of the image's amplitudes, and its largest value at the origin."""
    image = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    basis = basis_for("phase", 8, 8)
    zero = basis.filter(image, torch.zeros(1, 8, 5, dtype=torch.float64))
    torch.testing.assert_close(torch.fft.fft2(zero).abs(), torch.fft.fft2(image).abs())
    assert int(zero.flatten().argmax()) == 0


def test_phases_of_symmetric_images_stay_odd() -> None:
    """Mirror images give real spectra, whose negative entries have the angle pi at k and at -k: one of them is turned."""
    image = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    image[..., 4, 0] = 1
    basis = basis_for("phase", 8, 8)
    half = torch.full((1, 8, 5), 0.5, dtype=torch.float64)
    angles = basis.analyse(image).imag[0, 0, :, 0]
    assert angles[1:4].tolist() == (-angles[5:].flip(0)).tolist()
    assert torch.isfinite(basis.filter(image, half)).all()


@pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 3), (4, 6)])
def test_the_gradient_is_that_of_the_full_mask(h: int, w: int) -> None:
    draw = torch.Generator().manual_seed(1)
    images, slope = (torch.rand(2, 1, h, w, dtype=torch.float64, generator=draw) for _ in range(2))
    basis = basis_for("phase", h, w)
    masks = basis.symmetrise_(torch.rand(2, 1, *basis.shape, dtype=torch.float64, generator=draw))
    full = basis.to_full(masks).requires_grad_()
    spectra = torch.fft.fft2(images)
    filtered = torch.fft.ifft2(spectra.abs() * torch.exp(1j * full * spectra.angle())).real
    (expected,) = torch.autograd.grad((filtered * slope).sum(), full)
    found = basis.gradient(slope, masks, basis.analyse(images))
    torch.testing.assert_close(found, expected[..., : basis.shape[1]], rtol=0, atol=1e-12)
    torch.testing.assert_close(basis.magnitudes(images), spectra.abs()[..., : basis.shape[1]])
