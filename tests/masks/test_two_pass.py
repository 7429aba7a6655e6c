"""The two-pass classifier: each image by its predicted class's mask, and gradients through the second pass alone."""

from __future__ import annotations

import pytest
import torch
from half_spectrum import filter_images, fourier
from torch import Tensor, nn

from fmtool.masks.two_pass import OneMask, TwoPass


class Brightness(nn.Module):
    """Three logits: dark, middling and bright images."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([0.3 - mean, 0 * mean, mean - 0.7], dim=1)


@pytest.fixture
def images() -> Tensor:
    """A dark image, a middling and a bright one."""
    noise = torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    return torch.tensor([0.1, 0.5, 0.85]).view(3, 1, 1, 1) + noise


MASKS = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_each_image_is_filtered_by_its_predicted_classs_mask(images: Tensor) -> None:
    """Masks of the classes 2 and 0, in that order; the middling image has none and passes."""
    found = TwoPass(Brightness(), MASKS, torch.tensor([2, 0]), 3, fourier(4, 6))
    filtered = torch.cat([filter_images(images[:1], MASKS[1]), images[1:2], filter_images(images[2:], MASKS[0])])
    torch.testing.assert_close(found(images), Brightness()(filtered), rtol=0, atol=1e-6)
    assert torch.equal(found(images)[1], Brightness()(images)[1])  # bit for bit, which a mask of ones would round
    assert found.classes == [0, 2] and torch.equal(found.masks[1], torch.ones(1, 4, 4))
    assert "masks" in dict(found.named_buffers())  # so that it moves to the device with the network


def test_the_gradient_is_that_of_the_second_pass(images: Tensor) -> None:
    two_pass = TwoPass(Brightness(), MASKS, torch.tensor([2, 0]), 3, fourier(4, 6))
    inputs = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(two_pass(inputs)[2, 2], inputs)
    # logit 2 is the mean minus a constant: the mask's zero frequency over the number of pixels
    torch.testing.assert_close(found[2], torch.full((1, 4, 6), float(MASKS[0, 0, 0, 0]) / 24))
    assert float(found[:2].abs().max()) == 0


def test_one_mask_filters_every_image(images: Tensor) -> None:
    found = OneMask(Brightness(), MASKS[0], fourier(4, 6))
    torch.testing.assert_close(found(images), Brightness()(filter_images(images, MASKS[0])))
