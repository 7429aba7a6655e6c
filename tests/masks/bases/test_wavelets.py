"""Wavelets: Haar's written out, sizes that can be halved, and names that PyWavelets has but that don't suit."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fmtool.errors import MaskError
from fmtool.masks.bases.wavelets import Wavelet


def test_haar_of_four_pixels() -> None:
    """The mean, its halves' difference, and the differences of neighbours; signs are a convention."""
    expected = np.array(
        [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [0.5**0.5, -(0.5**0.5), 0, 0], [0, 0, 0.5**0.5, -(0.5**0.5)]]
    )
    np.testing.assert_allclose(np.abs(Wavelet("haar", 4, 4).matrix(4)), np.abs(expected), rtol=0, atol=1e-12)
    np.testing.assert_allclose(Wavelet("haar", 4, 4).matrix(4) @ np.ones(4), [2, 0, 0, 0], rtol=0, atol=1e-12)


def test_a_length_is_halved_as_often_as_it_can_be() -> None:
    """Of 12 pixels three means remain, each over four neighbours."""
    matrix = Wavelet("haar", 12, 12).matrix(12)
    np.testing.assert_allclose(matrix[:3], np.kron(np.eye(3), np.full((1, 4), 0.5)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(12), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("h", "w"), [(7, 8), (8, 7), (1, 2)])
def test_odd_sizes_are_refused(h: int, w: int) -> None:
    with pytest.raises(MaskError, match=f"^--basis db2: expected an even height and width, got {h}x{w}$"):
        Wavelet("db2", h, w)


def test_a_wavelet_that_is_not_orthonormal_is_refused() -> None:
    with pytest.raises(MaskError, match=r"^--basis bior2\.2: this wavelet is not orthonormal$"):
        Wavelet("bior2.2", 8, 8).matrix(8)


def test_without_pywavelets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(MaskError, match=r'^--basis haar: needs PyWavelets, which the extra "wavelets" installs$'):
        Wavelet("haar", 4, 4).matrix(4)
