"""The tables of a heat map, of maps small enough to count by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from half_spectrum import fourier

from fmtool.errors import ArtifactError
from fmtool.masks.radial import bins_of, frequencies, share_interval
from fmtool.tables.heatmaps import band_means, bands_table, filters_table, heatmap_table, heatmap_tables, worst_table

# Two images of 4x4 pixels. Rows are the frequencies 0, 1/4, -1/2 and -1/4 down, columns 0, 1/4 and 1/2 across.
WRONG = np.zeros((2, 4, 3), dtype=bool)
WRONG[:, 2, 0] = True  # both images at 1/2 down
WRONG[0, [1, 3], 0] = True  # the first at 1/4 down, which is stored twice
WRONG[1, 1, 1] = True  # the second at 1/4 down and across
LOSS = np.where(WRONG, 3.0, 1.0)


def header(filters: Any = None) -> dict[str, Any]:
    return {"norm": 0.5, "image_size": [4, 4], "filters": filters}


def arrays() -> dict[str, Any]:
    return {
        "wrong": WRONG, "loss": LOSS, "error_rate": WRONG.mean(axis=0), "mean_loss": LOSS.mean(axis=0),
        "clean_wrong": np.array([False, True]),
    }  # fmt: skip


def test_the_main_table_is_a_mean_over_the_full_spectrum() -> None:
    """Of 16 frequencies: 1 at 1/2 down, 1/2 at two places of column 0, 1/2 at 1/4, 1/4, which stands for two."""
    (row,) = heatmap_table(header(), arrays()).rows
    assert row == pytest.approx([2, 0.5, 50, 100 * (1 + 0.5 + 0.5 + 2 * 0.5) / 16, 0, 100, 1 + 2 * 3 / 16])


def test_images_without_a_loss_are_counted_below_the_bands() -> None:
    """Under one kind of noise the first image has no class."""
    loss = LOSS.copy()
    loss[0, 1, 1] = np.nan
    table = bands_table(header(), {**arrays(), "loss": loss})
    assert table.notes[0].endswith(
        " Mean loss: over the 1 of 2 images whose logits are finite under noise of every frequency."
    )
    assert "Mean loss" not in bands_table(header(), arrays()).notes[0] and all(
        math.isfinite(row[-1]) for row in table.rows
    )


def test_the_worst_frequencies_stand_once_for_their_negatives() -> None:
    table = worst_table(header(), arrays())
    assert [row[:4] for row in table.rows[:3]] == [
        [-0.5, 0.0, 0.5, 100.0], [0.25, 0.0, 0.25, 50.0], [0.25, 0.25, pytest.approx(math.hypot(0.25, 0.25)), 50.0],
    ]  # fmt: skip
    assert all(row[3] == 0 for row in table.rows[3:]) and len(table.rows) == 5
    low, high = table.rows[0][4].values
    assert (low, high) == (pytest.approx(100 * 2 / (2 + 1.96**2), abs=0.01), pytest.approx(100))  # Wilson's, of 2 of 2
    assert table.rows[0][5] == 3


def test_bands_are_means_over_their_frequencies_and_intervals_over_images() -> None:
    """A band is 1/4 wide, around 0, 1/4, 1/2, 3/4 cycles per pixel; all entries of a band count as often as they occur."""
    radius = np.hypot(np.fft.fftfreq(4)[:, None], np.fft.rfftfreq(4))
    counts = np.array([1.0, 2.0, 1.0])
    bands = band_means(header(), arrays())
    assert bands.radii == [0, 0.25, 0.5, 0.75][: len(bands.radii)] and sum(bands.counts) == 16
    for band, centre in enumerate(bands.radii):
        inside = np.broadcast_to(np.rint(radius * 4) == band, (4, 3))
        weights = np.broadcast_to(counts, (4, 3))[inside]
        each = [np.average(WRONG[row][inside], weights=weights) for row in range(2)]
        assert bands.counts[band] == weights.sum() and bands.error.mean[band] == pytest.approx(np.mean(each)), centre
    rows = bands_table(header(), arrays()).rows
    assert [row[:3] for row in rows[:2]] == [[0.0, 0.0, 1], [0.125, 0.375, bands.counts[1]]]


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (4, 12), (15, 3), (1, 8)])
def test_every_frequency_lies_in_its_band(size: tuple[int, int]) -> None:
    """Where one side is more than twice the other, the band after zero begins below half a bin."""
    h, w = size
    maps = np.zeros((2, h, w // 2 + 1))
    some = {**arrays(), "wrong": maps > 0, "loss": maps, "error_rate": maps[0], "mean_loss": maps[0]}
    rows = bands_table({**header(), "image_size": [h, w]}, some).rows
    radius, bins = frequencies(fourier(h, w)), bins_of(fourier(h, w))
    for band, (low, high, *_) in enumerate(rows):
        inside = radius[bins == band]
        assert low - 1e-9 <= inside.min() and inside.max() <= high + 1e-9
    lowest = radius[radius > 0].min()
    assert rows[1][0] == pytest.approx(min(lowest, 0.5 / (min(h, w) if min(h, w) > 1 else max(h, w))))


def test_accuracies_behind_filters_are_counts_over_images() -> None:
    right = {"low-pass": [0, 1], "high-pass": [2, 1], "band-pass": [1, 0]}
    table = filters_table(header({"radii": [0.0, 0.25], "right": right}), arrays())
    assert [[row[0], row[1], row[3], row[5]] for row in table.rows] == [[0.0, 0, 100, 50], [0.25, 50, 50, 0]]
    assert list(table.columns)[1:3] == ["low-pass %", "low-pass 95 %"]
    assert len(heatmap_tables(header({"radii": [0.0], "right": right}), arrays())) == 4
    assert len(heatmap_tables(header(), arrays())) == 3


def test_maps_of_another_size_are_refused() -> None:
    for name in ("error_rate", "mean_loss", "wrong", "loss"):
        short = {**arrays(), name: arrays()[name][..., :2]}
        with pytest.raises(
            ArtifactError, match=rf"heat map's {name} is \[4, 2\], which does not fit images of \[4, 4\]"
        ):
            heatmap_tables(header(), short)


def test_error_rates_of_bands_lie_within_0_and_100() -> None:
    for row in bands_table(header(), arrays()).rows:
        low, high = row[4].values
        assert low >= 0 and high <= 100


def test_a_band_in_which_all_images_agree_has_wilsons_interval() -> None:
    """Both images are wrong, or none is: that leaves the rate open."""
    bands = band_means(header(), {**arrays(), "wrong": np.zeros_like(WRONG)}).error
    assert (bands.low == 0).all() and bands.high == pytest.approx(share_interval(0.0, 2)[1])
    bands = band_means(header(), {**arrays(), "wrong": np.ones_like(WRONG)}).error
    assert bands.low == pytest.approx(share_interval(1.0, 2)[0]) and bands.high == pytest.approx(1)
