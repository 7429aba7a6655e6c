"""The basis without a transform."""

from __future__ import annotations

import torch

from fmtool.masks.basis import basis_for


def test_a_mask_multiplies_pixels() -> None:
    basis = basis_for("pixels", 2, 3)
    images, masks = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]]), torch.tensor([[[0.0, 0.5, 1], [1, 0, 0.5]]])
    assert basis.filter(images, masks).tolist() == [[[[0, 1, 3], [4, 0, 3]]]]
    assert basis.shape == (2, 3) and basis.entries == 6 and basis.frequencies is None


def test_the_gradient_is_pixel_times_slope() -> None:
    images, slope, masks = (torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(3))
    basis = basis_for("pixels", 4, 4)
    found = basis.gradient(slope, masks, basis.analyse(images))
    assert torch.equal(found, images * slope) and found.data_ptr() != slope.data_ptr()
