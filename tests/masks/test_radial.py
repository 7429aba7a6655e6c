"""Radial frequency against sums over the full spectrum, entry by entry."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmtool.errors import ArtifactError
from fmtool.masks import radial
from fmtool.masks.spectrum import to_full
from fmtool.tables.spectra import Source, bars, spectrum_lines, spectrum_table

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
    check(radial.of_masks(masks, w), (full**2).sum(axis=1))
    images, moved = generator.random((2, 5, 3, h, w))
    check(radial.of_images(images), (np.abs(np.fft.fft2(images)) ** 2).sum(axis=1))
    check(radial.of_images(moved, images), (np.abs(np.fft.fft2(moved - images)) ** 2).sum(axis=1))


@given(h=st.integers(1, 12), w=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_bin_is_as_wide_as_a_step_of_the_shorter_side(h: int, w: int) -> None:
    radius, bins, width = radial.frequencies(h, w), radial.bins_of(h, w), 1 / min(h, w)
    assert (bins == 0).sum() == 1 and bins[0, 0] == 0
    outside = np.abs(radius - bins * width) > width / 2 + 1e-9
    assert (radius[outside] < width / 2).all()  # the only ones that are moved, out of the bin of the zero frequency
    assert radius.max() <= math.sqrt(0.5) + 1e-12
    assert np.array_equal(radial.column_counts(w).sum(), w)


def test_one_wave_has_its_own_frequency() -> None:
    x = np.arange(16)
    wave = np.cos(2 * np.pi * 3 * x / 16) * np.ones((16, 1))
    found = radial.of_images(wave[None, None])
    assert found.frequency[0] == pytest.approx(3 / 16)
    assert found.profile[0, 3] == pytest.approx(1) and found.centres[3] == 3 / 16


def test_spectra_without_energy_are_counted_and_left_out() -> None:
    masks = np.zeros((4, 1, 8, 5))
    masks[1, 0, 0, 1] = masks[2, 0, 0, 3] = 0.5
    found = radial.of_masks(masks, 8)
    assert found.empty == 2 and np.isnan(found.frequency).tolist() == [True, False, False, True]
    mean = radial.estimate(found.frequency)
    assert mean.n == 2 and mean.mean == pytest.approx(2 / 8)
    assert radial.estimate(found.profile).n == 2
    nothing = radial.estimate(radial.of_masks(masks[:1], 8).profile)
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
    assert radial.flat(32, 32).zero[0] == pytest.approx(1 / 1024)
    check(radial.flat(9, 6), np.ones((1, 9, 6)))


def test_it_needs_no_torch() -> None:
    code = "import sys, fmtool.masks.radial, fmtool.tables.spectra; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# The table of spectra -------------------------------------------------------------------------------------------------


def source(name: str, kind: str, header: dict[str, object], **arrays: np.ndarray) -> Source:
    """A file of four 8 x 8 images, key = index = 0 to 3 unless given."""
    return Source(name, kind, header, {"key": np.arange(4), "index": np.arange(4), **arrays})


def ones_at(*columns: int | None) -> np.ndarray:
    """Masks (n, 1, 8, 5) that keep one horizontal frequency each, None for none."""
    masks = np.zeros((len(columns), 1, 8, 5), dtype=np.float32)
    for row, column in enumerate(columns):
        if column is not None:
            masks[row, 0, 0, column] = 1
    return masks


ESSENTIAL = {"for": "essential", "attack": None, "image_size": [8, 8]}
ADVERSARIAL = {"for": "adversarial", "attack": "fmn", "image_size": [8, 8]}


def test_table_pairs_images_with_the_first_row() -> None:
    """Frequencies in eighths: 0, 1, 2, 3 against 1, 3 and nothing for the images 0, 1, 2, in another order."""
    first = source("a", "masks", ESSENTIAL, masks=ones_at(0, 1, 2, 3))
    order = np.array([2, 1, 0])
    second = source("b", "masks", ADVERSARIAL, masks=ones_at(None, 3, 1), key=order, index=order)
    table = spectrum_table([first, second])
    one, two = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (one["spectra"], one["n"], one["all zero"]) == ("essential masks", 4, 0)
    assert one["mean frequency"] == pytest.approx(1.5 / 8) and one["pairs"] is None
    assert (one["at zero %"], one["below 0.125 %"], one["above 0.25 %"]) == (25, 25, 25)
    assert (two["spectra"], two["n"], two["all zero"]) == ("adversarial masks (FMN)", 2, 1)
    assert two["pairs"] == 2 and two["difference"] == pytest.approx((1 + 2) / 2 / 8)
    error = 1.959964 * np.std([1 / 8, 2 / 8], ddof=1) / np.sqrt(2)
    assert two["difference 95 %"].text == f"{1.5 / 8 - error:+.4f} to {1.5 / 8 + error:+.4f}"
    assert "8x8" in table.notes[-1]


def test_table_of_an_attack_leaves_out_what_was_not_attacked() -> None:
    generator = np.random.default_rng(0)
    images = generator.random((4, 1, 8, 8)).astype(np.float32)
    wave = 0.01 * np.cos(2 * np.pi * 2 * np.arange(8) / 8).astype(np.float32)
    attacked = source(
        "f", "attack", {"attack": "pgd"}, images=images, adversarial=images + wave, status=np.array([0, 1, 2, 0])
    )
    classes = source("c", "class-masks", {"robust": True, "attack": "fmn", "image_size": [8, 8]}, masks=ones_at(1, 1))
    table = spectrum_table([attacked, attacked, classes])
    assert [(row[1], row[2]) for row in table.rows] == [
        ("perturbations (PGD)", 2),
        ("images", 4),
        ("perturbations (PGD)", 2),  # the same images once
        ("class masks (robust against FMN)", 2),
    ]
    assert table.rows[0][4] == pytest.approx(2 / 8, abs=1e-4)
    assert table.rows[2][9:11] == [2, pytest.approx(0)] and table.rows[3][9:] == [None] * 3
    assert table.rows[1][4] == pytest.approx(radial.estimate(radial.of_images(images).frequency).mean)


def test_an_adaptive_attack_is_called_so() -> None:
    images = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    header = {"attack": "pgd", "defense": {"robust": True, "attack": "fmn"}}
    attacked = source("f", "attack", header, images=images, adversarial=images + 0.01, status=np.zeros(4))
    assert spectrum_table([attacked]).rows[0][1] == "perturbations (adaptive PGD on robust FMN)"
    assert spectrum_lines(attacked)[0].startswith("perturbations (adaptive PGD on robust FMN): mean radial")


def test_lines_show_a_profile_in_bars() -> None:
    head, legend = spectrum_lines(source("a", "masks", ESSENTIAL, masks=ones_at(0, 0, None, 4)))
    assert "essential masks: mean radial frequency 0.167 ± 0.327 cycles/pixel (n = 3, 1 all zero left out)" in head
    assert "from 0 |█   ▇ " in head and "0.1 to 100 %" in legend
    (nothing,) = spectrum_lines(source("a", "masks", ESSENTIAL, masks=ones_at(None)))[:1]
    assert nothing.endswith("- (n = 0, 1 all zero left out)")
    assert bars(np.array([1.0, 0.1, 0.01, 0.0011, 0.0009, 0.0])) == "█▆▃▁  "


def test_masks_that_do_not_fit_their_images_are_an_error() -> None:
    with pytest.raises(ArtifactError, match=r"a: masks are \[1, 1, 8, 5\], which does not fit images of \[8, 7\]"):
        spectrum_table([source("a", "masks", {**ESSENTIAL, "image_size": [8, 7]}, masks=ones_at(0))])
    with pytest.raises(ArtifactError, match="got a file of kind model"):
        spectrum_table([source("a", "model", {})])
