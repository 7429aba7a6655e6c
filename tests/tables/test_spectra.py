"""The table of spectra, and their lines in a terminal."""

from __future__ import annotations

import numpy as np
import pytest

from fmtool.errors import ArtifactError
from fmtool.masks import radial
from fmtool.tables.spectra import OTHER_FREQUENCIES, Source, bars, spectrum_lines, spectrum_table

ESSENTIAL = {"for": "essential", "attack": None, "image_size": [8, 8]}
ADVERSARIAL = {"for": "adversarial", "attack": "fmn", "image_size": [8, 8]}


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
        ("class masks (robust FMN)", 2),
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


def test_masks_of_two_bases_have_a_reference_each_and_no_difference() -> None:
    """The same energy at every frequency has another mean there, which a difference would hold."""
    cosine = source("b", "masks", {**ESSENTIAL, "basis": "dct"}, masks=np.ones((4, 1, 8, 8), dtype=np.float32))
    phase = source("c", "masks", {**ESSENTIAL, "basis": "phase"}, masks=ones_at(0, 1, 2, 3))
    table = spectrum_table([source("a", "masks", ESSENTIAL, masks=ones_at(0, 1, 2, 3)), cosine, phase])
    pairs = [dict(zip(table.columns, row, strict=True))["pairs"] for row in table.rows]
    assert pairs == [None, None, 4]
    assert [note.rpartition(" ")[2] for note in table.notes[-3:]] == ["dct", "fourier", "phase"]
    assert table.notes[-4] == OTHER_FREQUENCIES
