"""The table of an attack: its numbers counted by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fmtool.masks import radial
from fmtool.tables.attacks import attack_table
from fmtool.tables.table import Table, as_json


def row_of(table: Table) -> dict[str, Any]:
    """The only row, by heading."""
    (row,) = table.rows
    return dict(zip(table.columns, row, strict=True))


def attack_arrays(distances: list[float], status: list[int]) -> dict[str, np.ndarray]:
    """Five pixels an image; image i moved by distances[i] in one of them; label 0, turned to 1 where the attack worked."""
    n = len(status)
    images = np.full((n, 1, 1, 5), 0.5, dtype=np.float32)
    moved = images.copy()
    moved[:, 0, 0, 2] += distances
    states = np.array(status)
    return {
        "images": images, "adversarial": moved, "status": states, "labels": np.zeros(n, dtype=int),
        "adversarial_predictions": (states != 2).astype(int), "clean_predictions": (states == 1).astype(int),
    }  # fmt: skip


def test_attack_figures_are_over_the_images_right_before() -> None:
    """An attack that failed counts as infinitely far, however near its image is; images wrong before don't count."""
    header = {"attack": "fmn", "options": {"steps": 100, "unused": None}}
    arrays = attack_arrays([0.1, 0.2, 0.3, 0.0, 0.0], [0, 0, 0, 2, 1])
    row = row_of(attack_table(header, arrays))
    assert row["n"] == 5
    assert row["clean accuracy %"] == pytest.approx(80)
    assert row["accuracy attacked %"] == pytest.approx(20)
    assert row["success %"] == pytest.approx(75)
    assert row["median l-inf"] == pytest.approx(0.25)  # of 0.1, 0.2, 0.3, infinity
    assert row["in 1/255"] == pytest.approx(0.25 * 255)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("l-inf", {}), ("l2", {}), ("l1", {"median l1": 0.7}), ("l0", {"median l0": 2.0}), (None, {})],
)
def test_distances_are_those_of_the_attacks_norm_and_of_l_inf_and_l2(
    norm: str | None, expected: dict[str, float]
) -> None:
    """One image of which two pixels moved, by 0.3 and 0.4."""
    arrays = attack_arrays([0.4], [0])
    arrays["adversarial"][0, 0, 0, 4] -= 0.3
    table = attack_table({"attack": "L1PGD", "options": {}, "norm": norm}, arrays)
    row = row_of(table)
    medians = {"median l-inf": 0.4, "in 1/255": 0.4 * 255, "median l2": 0.5, **expected}
    assert {name: row[name] for name in list(row)[5:]} == pytest.approx(medians)
    assert (f"the attack's own distance is {norm}." in table.notes) == (norm not in (None, "l-inf"))


def test_distances_are_measured_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    header = {"attack": "fmn", "options": {}}
    arrays = attack_arrays([0.1, 0.4, 0.3, 0.2, 0.0], [0, 0, 0, 0, 2])
    whole = attack_table(header, arrays)
    monkeypatch.setattr(radial, "BLOCK", 2 * 8 * 5)  # two images
    assert attack_table(header, arrays) == whole and row_of(whole)["median l-inf"] == pytest.approx(0.3)


def test_a_median_that_is_infinite_is_written_so() -> None:
    table = attack_table({"attack": "fmn", "options": {}}, attack_arrays([0.1, 0, 0], [0, 2, 2]))
    assert table.cells()[0][-3:] == ["inf", "inf", "inf"]
    assert json.loads(as_json(table))["rows"][0]["in 1/255"] is None


def test_an_attack_on_the_two_pass_classifier_is_called_adaptive() -> None:
    found = {"two_pass": 1, "class_masks": 2}
    defense = {"digest": "0", "robust": True, "attack": "fmn", "restarts": 5, "found": found}
    header = {"attack": "pgd", "options": {}, "defense": defense}
    table = attack_table(header, attack_arrays([0.1, 0.2, 0.3], [0, 0, 0]))
    assert row_of(table)["attack"] == "adaptive PGD on robust FMN"
    assert "accuracies are the two-pass classifier's. 1 images fooled" in table.notes[1]
    assert "from 5 random starts, 2 more through the mask" in table.notes[1]
    plain = {**header, "defense": {**defense, "robust": False, "attack": None}}
    assert row_of(attack_table(plain, attack_arrays([0.1], [0])))["attack"] == "adaptive PGD on plain"


def test_a_failed_attack_is_said_to_be_infinitely_far() -> None:
    header = {"attack": "fmn", "options": {}}
    some, none = (attack_table(header, attack_arrays([0.1, 0.2], status)) for status in ([0, 2], [0, 1]))
    assert some.notes[0].endswith("right before, where a failed attack is infinitely far.")
    assert none.notes == [
        "1 ok, 1 wrong before, not attacked, 0 attack failed. success and distances: over the 1 images right before."
    ]
