"""Tables: their numbers counted by hand, and their text."""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import numpy as np
import pytest

from fmtool import tables
from fmtool.errors import ArtifactError
from fmtool.summaries.attacks import attack_table
from fmtool.summaries.correlations import correlation_table, table1
from fmtool.summaries.masks import kept_entries
from fmtool.tables import Table


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


def test_a_median_that_is_infinite_is_written_so() -> None:
    table = attack_table({"attack": "fmn", "options": {}}, attack_arrays([0.1, 0, 0], [0, 2, 2]))
    assert table.cells()[0][-1] == "inf"
    assert json.loads(tables.as_json(table))["rows"][0]["in 1/255"] is None


def test_kept_entries_count_the_full_spectrum() -> None:
    """Columns 0 and w / 2 once, the ones between twice."""
    masks = np.zeros((1, 1, 4, 3), dtype=np.float32)
    masks[0, 0, 1] = [0.5, 0.5, 0.5]
    assert kept_entries(masks, 4).tolist() == [4]
    assert kept_entries(masks, 5).tolist() == [5]


def correlation_header(statistics: list[str]) -> dict[str, Any]:
    """Statistics that differ, one with no adjusted value."""
    null = {"mean": 0.2, "low": 0.1, "high": 0.3, "p": 0.01, "floor": 0.01, "adjusted": 0.375, "reason": ""}
    forced = {**null, "mean": 0.97, "adjusted": None, "reason": "the null's mean, 0.970, is not below 0.95"}
    return {
        "n": 50, "permutations": 99, "strict": False, "dropped": {"not preserved on both sides": 3},
        "sides": [{"attack": None}, {"attack": "fmn"}],
        "statistics": [
            {"name": name, "n": 50, "observed": 0.5, "details": {"std": 0.25}, "dropped": {"all_zero": 2},
             "null": null, "within_class": forced}
            for name in statistics
        ],
    }  # fmt: skip


def test_correlation_table_shows_both_nulls_and_what_was_left_out() -> None:
    table = correlation_table(correlation_header(["cosine"]))
    row = row_of(table)
    assert row["observed"] == 0.5 and row["null mean"] == 0.2 and row["null 95 %"] == "0.100 to 0.300"
    assert row["p"] == 0.01 and row["adjusted"] == 0.375 and row["within adjusted"] is None
    notes = " ".join(table.notes)
    for expected in (
        "floor 0.0100",
        "99 permutations",
        "3 not preserved",
        "2 all zero",
        "is not below 0.95",
        "std 0.25",
    ):
        assert expected in notes


def test_table_1_has_a_row_an_attack_and_refuses_other_statistics() -> None:
    table = table1([correlation_header(["cosine", "idcor"])] * 2)
    assert [row[0] for row in table.rows] == ["FMN", "FMN"]
    nulls = ["null", "adj."]
    expected = [
        "attack",
        "n",
        "cosine",
        *(f"cosine {x}" for x in nulls),
        "IdCor",
        *(f"idcor {x}" for x in nulls),
        "idcor p",
    ]
    assert list(table.columns) == expected
    assert table.rows[0][2] == "0.500 ± 0.250"
    with pytest.raises(ArtifactError, match="different statistics"):
        table1([correlation_header(["cosine"]), correlation_header(["idcor"])])


def test_formats_hold_the_same_values() -> None:
    table = Table("T", {"name": "", "value": ".2f"}, [["a|b", 0.123456], ["c", math.nan], ["d", None]], ["a note"])
    parsed = json.loads(tables.as_json(table))
    assert parsed["rows"] == [
        {"name": "a|b", "value": 0.123456},
        {"name": "c", "value": None},
        {"name": "d", "value": None},
    ]
    assert parsed["notes"] == ["a note"]
    assert list(csv.reader(tables.as_csv(table).splitlines())) == [
        ["name", "value"],
        ["a|b", "0.123456"],
        ["c", ""],
        ["d", ""],
    ]
    lines = tables.as_markdown(table).splitlines()
    assert lines[1] == "| --- | ---: |" and lines[3] == "| c | - |" and lines[-1] == "a note"
