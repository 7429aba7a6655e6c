"""A basis of two matrices: against their product with the pixels in a row, with gradients by autograd."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from fmtool.masks.bases.orthonormal import Orthonormal
from fmtool.masks.basis import Array


class Turned(Orthonormal):
    """A drawn orthonormal matrix for each length."""

    def matrix(self, n: int) -> Array:
        q: Array = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
        return q


def whole(basis: Orthonormal) -> Tensor:
    """The (h w, h w) matrix that does the same to an image's pixels in a row."""
    return torch.tensor(np.kron(*basis.matrices))


@pytest.mark.parametrize(("h", "w"), [(3, 3), (4, 2)])
def test_it_is_one_matrix_on_all_pixels(h: int, w: int) -> None:
    basis = Turned("turned", h, w)
    images = torch.rand(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    matrix = whole(basis)
    coefficients = images.flatten(-2) @ matrix.T
    torch.testing.assert_close(basis.analyse(images).flatten(-2), coefficients)
    filtered = (masks.flatten(-2) * coefficients) @ matrix
    torch.testing.assert_close(basis.filter(images, masks).flatten(-2), filtered)
    slope = torch.rand(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad((filtered.view_as(slope) * slope).sum(), masks)
    found = basis.gradient(slope, masks.detach(), basis.analyse(images))
    torch.testing.assert_close(found.sum(dim=0), expected)


def test_matrices_are_made_once_for_each_number_type() -> None:
    """A CUDA graph can't copy them."""
    basis = Turned("turned", 3, 4)
    single, double = torch.rand(1, 3, 4), torch.rand(1, 3, 4).double()
    assert basis.analyse(single).dtype == torch.float32 and basis.analyse(double).dtype == torch.float64
    assert basis._tensors(single)[0] is basis._tensors(single)[0] and len(basis._tensors_by_place) == 2


@pytest.fixture
def tf32() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.usefixtures("tf32")
def test_masks_are_never_multiplied_in_tf32() -> None:
    """Where the network's products are, theirs are float64's."""
    basis, images = Turned("turned", 3, 4), torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(1))
    a, b = (torch.tensor(matrix) for matrix in basis.matrices)
    expected = (a.T @ (masks.double() * (a @ images.double() @ b.T)) @ b).float()
    coefficients = basis.analyse(images)
    assert coefficients.dtype == torch.float32
    torch.testing.assert_close(basis.synthesise(masks, coefficients), expected, rtol=1e-6, atol=1e-7)
    assert {dtype for dtype, _ in basis._tensors_by_place} == {torch.float64}
