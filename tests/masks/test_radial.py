"""Radial frequency against sums over the full spectrum, entry by entry."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from half_spectrum import fourier, to_full
from hypothesis import given, settings
from hypothesis import strategies as st

from fmtool.masks import radial
from fmtool.masks.heatmap import filter_masks

SIZES = [(8, 8), (7, 7), (8, 5), (5, 8), (6, 15), (32, 32), (1, 4)]


def by_hand(energy: np.ndarray) -> dict[str, float]:
    """Sums over every entry of one full spectrum (h, w), zero frequency in the corner."""
    h, w = energy.shape
    found = {"total": 0.0, "moment": 0.0, "zero": 0.0, "low": 0.0, "high": 0.0}
    for y in range(h):
        for x in range(w):
            fy, fx = (y if 2 * y < h else y - h) / h, (x if 2 * x < w else x - w) / w
            r = math.sqrt(fy**2 + fx**2)
            found["total"] += energy[y, x]
            found["moment"] += r * energy[y, x]
            found["zero"] += energy[y, x] * (y == x == 0)
            found["low"] += energy[y, x] * (r < 0.125 - 1e-9)
            found["high"] += energy[y, x] * (r > 0.25 + 1e-9)
    return found


def check(measured: radial.Radial, energies: np.ndarray) -> None:
    """energies (n, h, w): full spectra, summed over channels."""
    for row, energy in enumerate(energies):
        sums = by_hand(energy)
        assert measured.frequency[row] == pytest.approx(sums["moment"] / sums["total"])
        for name in ("zero", "low", "high"):
            assert getattr(measured, name)[row] == pytest.approx(sums[name] / sums["total"], abs=1e-12)
        assert measured.profile[row].sum() == pytest.approx(1)
        assert measured.profile[row, 0] == pytest.approx(measured.zero[row])


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_masks_and_images_give_what_the_full_spectrum_gives(h: int, w: int) -> None:
    generator = np.random.default_rng(0)
    masks = generator.random((5, 3, h, w // 2 + 1)).astype(np.float32)
    full = to_full(torch.tensor(masks).double(), w).numpy()  # columns that mirror themselves as they are
    check(radial.of_masks(masks, fourier(h, w)), (full**2).sum(axis=1))
    images, moved = generator.random((2, 5, 3, h, w))
    check(radial.of_images(images), (np.abs(np.fft.fft2(images)) ** 2).sum(axis=1))
    check(radial.of_images(moved, images), (np.abs(np.fft.fft2(moved - images)) ** 2).sum(axis=1))


@given(h=st.integers(1, 12), w=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_bin_is_as_wide_as_a_step_of_the_shorter_side(h: int, w: int) -> None:
    radius, bins = radial.frequencies(fourier(h, w)), radial.bins_of(fourier(h, w))
    width = 1 / (min(h, w) if min(h, w) > 1 else max(h, w))
    assert (bins == 0).sum() == 1 and bins[0, 0] == 0
    outside = np.abs(radius - bins * width) > width / 2 + 1e-9
    assert (radius[outside] < width / 2).all()  # the only ones that are moved, out of the bin of the zero frequency
    assert radius.max() <= math.sqrt(0.5) + 1e-12
    assert fourier(h, w).counts.sum() == w


def test_one_wave_has_its_own_frequency() -> None:
    x = np.arange(16)
    wave = np.cos(2 * np.pi * 3 * x / 16) * np.ones((16, 1))
    found = radial.of_images(wave[None, None])
    assert found.frequency[0] == pytest.approx(3 / 16)
    assert found.profile[0, 3] == pytest.approx(1) and found.centres[3] == 3 / 16


def test_spectra_without_energy_are_counted_and_left_out() -> None:
    masks = np.zeros((4, 1, 8, 5))
    masks[1, 0, 0, 1] = masks[2, 0, 0, 3] = 0.5
    found = radial.of_masks(masks, fourier(8, 8))
    assert found.empty == 2 and np.isnan(found.frequency).tolist() == [True, False, False, True]
    mean = radial.estimate(found.frequency)
    assert mean.n == 2 and mean.mean == pytest.approx(2 / 8)
    assert radial.estimate(found.profile).n == 2
    nothing = radial.estimate(radial.of_masks(masks[:1], fourier(8, 8)).profile)
    assert nothing.n == 0 and np.isnan(nothing.mean).all()
    assert radial.of_images(np.zeros((0, 1, 8, 8))).frequency.shape == (0,)


def test_interval_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = radial.estimate(values)
    error = 1.959964 * np.sqrt(((values - values.mean()) ** 2).sum() / 49 / 50)
    assert (found.low, found.high) == (pytest.approx(values.mean() - error), pytest.approx(values.mean() + error))
    assert np.isnan(radial.estimate(values[:1]).low) and radial.estimate(values[:1]).mean == values[0]


def test_blocks_and_kept_rows_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images, moved = torch.tensor(generator.random((2, 7, 2, 6, 6)))
    keep = np.array([True, False, True, True, False, True, True])
    whole = radial.of_images(moved, images)
    monkeypatch.setattr(radial, "BLOCK", 2 * 8 * 2 * 6 * 6)  # two images
    few = radial.of_images(moved, images, keep)
    np.testing.assert_allclose(few.frequency, whole.frequency[keep])
    np.testing.assert_allclose(few.profile, whole.profile[keep])


@pytest.mark.parametrize(("shape", "rows"), [((5000, 3, 32, 32), 2730), ((5000, 3, 224, 224), 55), ((0, 3, 8, 8), 0)])
def test_blocks_are_bounded_by_bytes(shape: tuple[int, ...], rows: int) -> None:
    """64 MiB of float64, whatever the size of the images; together they are all rows, once."""
    blocks = list(radial.row_blocks(np.lib.stride_tricks.as_strided(np.zeros(1), shape, [0] * 4)))
    assert [one for block in blocks for one in range(block.start, block.stop)] == list(range(shape[0]))
    assert max((block.stop - block.start for block in blocks), default=0) == rows
    assert next(radial.row_blocks(np.broadcast_to(np.zeros(1), (2, 10**8)))) == slice(0, 1)


def test_a_mask_that_keeps_all_is_flat() -> None:
    assert radial.flat(fourier(32, 32)).zero[0] == pytest.approx(1 / 1024)
    check(radial.flat(fourier(9, 6)), np.ones((1, 9, 6)))


@pytest.mark.processes
def test_it_needs_no_torch() -> None:
    code = "import sys, fmtool.masks.radial, fmtool.tables.spectra; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# The table of spectra -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(1, 16), (16, 1)])
def test_a_signal_has_bins_of_its_own_length(h: int, w: int) -> None:
    """Its shorter side is 1: bins were one cycle per pixel wide, and lay beyond the spectrum."""
    basis = fourier(h, w)
    assert radial.flat(basis).centres.tolist() == [k / 16 for k in range(9)]
    assert filter_masks(basis)[1].tolist() == [k / 16 for k in range(9)]
