"""The table of `check-masks`: shares and differences in per cent, and what its notes say of the controls."""

from __future__ import annotations

from typing import Any

import pytest

from fmtool.masks.controls import Control, Interval, MaskCheck
from fmtool.tables.checks import check_table

KEPT, BETWEEN = Interval(0.75, 0.5, 0.875), Interval(-0.125, -0.25, 0.0625)


def check(**more: Any) -> MaskCheck:
    controls = [Control("no filter", 40, KEPT), Control("random places", 40, KEPT, BETWEEN, 0.025)]
    fields = {
        "about": "essential",
        "attack": None,
        "n": 40,
        "draws": 7,
        "flips": 999,
        "kept_entries": 12.5,
        "entries": 64,
    }
    return MaskCheck(**{**fields, "controls": controls, **more})  # type: ignore[arg-type]


def test_a_control_is_a_row_in_per_cent() -> None:
    table = check_table(check())
    assert table.title == "Checked masks (essential)"
    assert check_table(check(suffix=", dct")).title == "Checked masks (essential, dct)"
    assert table.cells() == [
        ["no filter", "40", "75.0", "50.0", "87.5", "-", "-", "-", "-"],
        ["random places", "40", "75.0", "50.0", "87.5", "-12.5", "-25.0", "+6.2", "0.025"],
    ]


@pytest.mark.parametrize(
    ("about", "attack", "title", "asked"),
    [
        ("essential", None, "(essential)", "does the label stay?"),
        ("adversarial", "fmn", "(adversarial, FMN)", "does the attack's class stay?"),
        ("class", "pgd", "(class, PGD)", "is the image right?"),
    ],
)
def test_the_kind_of_masks_is_told(about: str, attack: str | None, title: str, asked: str) -> None:
    table = check_table(check(about=about, attack=attack))
    assert table.title.endswith(title) and asked in table.notes[0]
    assert "median of 12.5 of 64 entries" in table.notes[0]


def test_numbers_of_draws_and_flips_are_told_and_images_that_are_left_out() -> None:
    notes = check_table(check()).notes
    assert "mean of 7 draws" in notes[1] and "999 sign flips over images, floor 0.001." in notes[4] and len(notes) == 5
    assert "floor 0.2." in check_table(check(flips=4)).notes[4]
    fewer = check_table(check(controls=[Control("mask of another image", 38, KEPT, BETWEEN, 0.5)])).notes
    assert "left out of its row" in fewer[5]
