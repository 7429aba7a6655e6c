"""The cosine transform against SciPy's, and its frequencies written out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from fmtool.masks.bases.dct import Cosine


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_matrix_is_scipys(n: int) -> None:
    expected = scipy.fft.dct(np.eye(n), axis=0, norm="ortho")
    np.testing.assert_allclose(Cosine("dct", n, n).matrix(n), expected, rtol=0, atol=1e-14)


def test_coefficients_are_those_of_both_axes() -> None:
    images = torch.rand(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = scipy.fft.dctn(images.numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(Cosine("dct", 5, 6).analyse(images).numpy(), expected, rtol=0, atol=1e-12)


def test_frequencies_and_the_picture_around_them() -> None:
    """The last of n has (n - 1) / 2 periods over n pixels."""
    basis = Cosine("dct", 2, 4)
    across = np.array([0, 1 / 8, 2 / 8, 3 / 8])
    np.testing.assert_allclose(basis.frequencies, [across, np.hypot(1 / 4, across)], rtol=0, atol=1e-12)
    assert basis.extent == (-1 / 16, 7 / 16, 3 / 8, -1 / 8)
