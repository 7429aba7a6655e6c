"""Half spectra against the full ones of torch.fft.fft2."""

from __future__ import annotations

import pytest
import torch
from half_spectrum import fourier, kept_entries, shifted, symmetrise_, to_full

from fmtool.errors import MaskError

SIZES = [(8, 8), (7, 9), (8, 9), (9, 8), (1, 5), (4, 2)]


def symmetric(h: int, w: int, seed: int = 0) -> torch.Tensor:
    """A random half mask (2, 3, h, w // 2 + 1) as fitting makes them, float64."""
    draw = torch.Generator().manual_seed(seed)
    return symmetrise_(torch.rand(2, 3, h, w // 2 + 1, dtype=torch.float64, generator=draw), w)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_the_full_mask_mirrors_and_counts(h: int, w: int) -> None:
    half = symmetric(h, w)
    full = to_full(half, w)
    mirrored = full.flip(-2, -1).roll((1, 1), dims=(-2, -1))
    assert torch.equal(full, mirrored)
    assert full.shape[-2:] == (h, w)
    assert float((half * fourier(h, w).weights(half.dtype, half.device)).sum()) == pytest.approx(float(full.sum()))
    half[..., 0, 0] = 0
    assert kept_entries(half, w).tolist() == [(to_full(one, w) > 1e-3).sum().item() for one in half]


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_shifted_puts_the_zero_frequency_in_the_centre(h: int, w: int) -> None:
    half = torch.zeros(1, h, w // 2 + 1)
    half[0, 0, 0] = 1
    where = shifted(half, w)[0].nonzero().tolist()
    assert where == [[h // 2, w // 2]]


def test_pooling_averages_around_each_centre() -> None:
    """Bin k is the mean of frequencies pk - 1 ... pk + 1, modulo the size, in both directions; written out."""
    full = to_full(symmetric(9, 15), 15)
    pooled = fourier(9, 15).pool(full, 3)
    assert pooled.shape[-2:] == (3, 5)
    for k in range(3):
        for m in range(5):
            rows = [(3 * k + offset) % 9 for offset in (-1, 0, 1)]
            columns = [(3 * m + offset) % 15 for offset in (-1, 0, 1)]
            expected = full[..., rows, :][..., columns].mean(dim=(-2, -1))
            torch.testing.assert_close(pooled[..., k, m], expected)
    assert torch.allclose(pooled, pooled.flip(-2, -1).roll((1, 1), dims=(-2, -1)))  # still symmetric


@pytest.mark.parametrize("p", [2, 4, 0, -3, 7])
def test_pooling_needs_an_odd_divisor(p: int) -> None:
    with pytest.raises(MaskError, match="odd number that divides"):
        fourier(8, 8).pool(torch.zeros(1, 8, 8), p)
