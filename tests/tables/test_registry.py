"""Tables: their numbers counted by hand, and their text."""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import numpy as np
import pytest

from fmtool.errors import ArtifactError, DataError
from fmtool.masks import radial
from fmtool.tables.attacks import attack_table
from fmtool.tables.correlations import correlation_table, correlation_tables, table1
from fmtool.tables.defenses import defense_table
from fmtool.tables.masks import kept_entries
from fmtool.tables.registry import joined
from fmtool.tables.table import ENDS, Table, as_csv, as_json, as_markdown, interval


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


def test_distances_are_measured_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    header = {"attack": "fmn", "options": {}}
    arrays = attack_arrays([0.1, 0.4, 0.3, 0.2, 0.0], [0, 0, 0, 0, 2])
    whole = attack_table(header, arrays)
    monkeypatch.setattr(radial, "BLOCK", 2 * 8 * 5)  # two images
    assert attack_table(header, arrays) == whole and row_of(whole)["median l-inf"] == pytest.approx(0.3)


def test_a_median_that_is_infinite_is_written_so() -> None:
    table = attack_table({"attack": "fmn", "options": {}}, attack_arrays([0.1, 0, 0], [0, 2, 2]))
    assert table.cells()[0][-1] == "inf"
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


def defense_header(*, adaptive: bool) -> dict[str, Any]:
    """Two columns; two attacks, and one on the masks of the second column."""

    def cell(accuracy: float, adaptive: bool = False) -> dict[str, Any]:
        return {"accuracy": accuracy, "accuracy_right_before": accuracy - 0.01, "adaptive": adaptive}

    matrix: list[Any] = [[cell(0.9), cell(0.8)], [cell(0.1), cell(0.7)], [cell(0.2), cell(0.6)]]
    return {
        "rows": ["clean", "fmn", "pgd", *(["adaptive PGD"] if adaptive else [])], "columns": ["none", "robust FMN"], "n": 50,
        "matrix": [*matrix, *([[None, cell(0.05, True)]] if adaptive else [])], "adaptive": adaptive,
        "worst": [cell(0.1), cell(0.5)], "clean_drop": [0.0, 0.1],
    }  # fmt: skip


def test_the_defence_table_marks_adaptive_cells() -> None:
    """The worst of the others stands below them and above the adaptive row, whose other cells are empty."""
    table = defense_table(defense_header(adaptive=True))
    assert list(table.columns) == ["data", "no mask", "robust FMN"]
    assert table.cells()[1:] == [
        ["FMN", "0.100 (0.090)", "0.700 (0.690)"],
        ["PGD", "0.200 (0.190)", "0.600 (0.590)"],
        ["worst of the attacks above, per image", "0.100 (0.090)", "0.500 (0.490)"],
        ["adaptive PGD", "-", "0.050 (0.040) adaptive"],
        ["drop in clean accuracy", "0.000", "0.100"],
    ]
    parsed = json.loads(as_json(table))["rows"]
    names = [f"{column}{part}" for column in ("no mask", "robust FMN") for part in ("", ", right before", ", adaptive")]
    assert all(list(row) == ["data", *names] for row in parsed)
    assert list(parsed[1].values()) == ["FMN", 0.1, pytest.approx(0.09), False, 0.7, pytest.approx(0.69), False]
    assert list(parsed[4].values()) == ["adaptive PGD", None, None, None, 0.05, pytest.approx(0.04), True]
    assert list(parsed[5].values())[1:] == [0.0, None, None, 0.1, None, None]
    (note,) = table.notes
    assert "cells not marked adaptive are non-adaptive: their attacks knew nothing of the masks" in note
    table = defense_table(defense_header(adaptive=False))
    assert [row[0] for row in table.rows[2:]] == [
        "PGD", "worst of the attacks above, per image", "drop in clean accuracy",
    ]  # fmt: skip
    assert "all cells are non-adaptive" in table.notes[0]


def test_defence_files_of_before_can_be_read() -> None:
    """They have neither drop nor worst case, and their cells don't say what they are."""
    header = defense_header(adaptive=False)
    old = [[{k: v for k, v in cell.items() if k != "adaptive"} for cell in row] for row in header["matrix"]]
    table = defense_table({"matrix": old, **{key: header[key] for key in ("rows", "columns", "n", "adaptive")}})
    assert [row[0] for row in table.rows] == ["clean", "FMN", "PGD"]


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
    assert row["observed"] == 0.5 and row["null mean"] == 0.2 and row["null 95 %"].text == "0.100 to 0.300"
    assert row["p"] == 0.01 and row["adjusted"] == 0.375 and row["within adjusted"] is None
    (parsed,) = json.loads(as_json(table))["rows"]
    assert list(parsed)[3:7] == ["null mean", "null 95 % low", "null 95 % high", "p"]
    assert (parsed["null 95 % low"], parsed["null 95 % high"], parsed["within 95 % low"]) == (0.1, 0.3, 0.1)
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


def test_table_1_has_a_row_an_attack_and_none_where_a_file_lacks_a_statistic() -> None:
    table = table1([correlation_header(["cosine"]), correlation_header(["cosine", "idcor"])])
    assert [row[0] for row in table.rows] == ["FMN", "FMN"]
    nulls = ["null", "adj.", "within adj."]
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
    assert table.cells()[0][:4] == ["FMN", "50", "0.500 ± 0.250", "0.200"] and table.rows[0][3:] == [
        0.2,
        0.375,
        *[None] * 6,
    ]
    parsed = json.loads(as_json(table))["rows"]
    assert list(parsed[0].values())[:5] == ["FMN", 50, 0.5, 0.25, 0.2] and list(parsed[0])[3] == "cosine std"
    assert table.rows[1][6:] == [0.5, 0.2, 0.375, None, 0.01]
    with pytest.raises(ArtifactError, match="share no statistic"):
        table1([correlation_header(["cosine"]), correlation_header(["idcor"])])


def test_noise_ceilings_come_last_in_table_1() -> None:
    """They are two fits of the same masks; other pairs of one purpose are named for what they are."""

    def between(*sides: tuple[str, str | None, float, float]) -> dict[str, Any]:
        names = ("for", "attack", "perturb", "lambda")
        found = [dict(zip(names, side, strict=True)) for side in sides]
        return {**correlation_header(["cosine"]), "sides": found}

    table = table1(
        [
            between(("essential", "pgd", 0.0, 0.5), ("essential", None, 1e-7, 0.5)),
            between(("adversarial", "fmn", 1e-7, 0.5), ("adversarial", "fmn", 0.0, 0.5)),
            between(("adversarial", "fmn", 0.0, 0.5), ("adversarial", "pgd", 0.0, 0.5)),
            between(("essential", None, 0.0, 0.5), ("essential", None, 1e-7, 0.1)),
            between(("essential", None, 0.0, 0.5), ("essential", None, 0.0, 0.5)),
            between(("essential", "pgd", 0.0, 0.5), ("adversarial", "fmn", 0.0, 0.5)),
        ]
    )
    assert [row[0] for row in table.rows] == [
        "adversarial (FMN) and adversarial (PGD)", "essential and essential", "essential and essential", "FMN",
        "noise ceiling, essential", "noise ceiling, adversarial (FMN)",
    ]  # fmt: skip


def test_table_1_tells_files_and_settings_apart_where_they_differ() -> None:
    one = correlation_header(["cosine"])
    table = table1([one, {**one, "permutations": 5, "strict": True, "pool": 7}], ["a", "b"])
    assert list(table.columns)[:3] == ["attack", "settings", "n"]
    assert [row[:2] for row in table.rows] == [
        ["FMN: a", f"{one['permutations']} permutations"], ["FMN: b", "5 permutations, strict p, pooled by 7"],
    ]  # fmt: skip
    assert "floor" not in table.notes[0]


def test_curves_have_a_table_each_with_means_over_subsets() -> None:
    def point(observed: float, p: float, mean: float) -> dict[str, Any]:
        null = {"mean": mean, "p": p, "adjusted": 7.0}  # of the point alone, which is not what the table shows
        return {"classes": [1], "n": int(10 * observed), "observed": observed, "null": null, "within_class": null}

    header = {
        **correlation_header(["cosine", "idcor"]),
        "curves": {
            "class_subsets": [
                {"statistic": "cosine", "size": 1, "points": [point(0.4, 0.01, 0.1), point(0.6, 0.09, 0.3)]},
                {"statistic": "cosine", "size": 2, "points": [point(0.4, 0.01, 0.95), point(0.6, 0.09, 0.97)]},
                {"statistic": "idcor", "size": 1, "points": [{"classes": [1], "n": 4, "reason": "too few"}] * 2},
            ],
        },
    }  # fmt: skip
    main, curve = correlation_tables(header)
    assert main.title == "Correlation" and "number of classes" in curve.title
    assert list(curve.columns)[:3] == ["statistic", "k", "subsets"]
    assert curve.rows[0] == ["cosine", 1, 2, 5.0, *map(pytest.approx, (0.5, 0.1, 0.2, 0.375, 0.375, 0.05, 50))]
    assert curve.rows[1][7] is None
    assert curve.rows[2] == ["idcor", 1, 0, *[None] * 8]
    assert curve.notes[1:] == ["idcor, k 1: none for 2 subsets, too few"]
    assert correlation_tables(correlation_header(["cosine"]))[1:] == []


def test_another_estimator_of_the_dimension_is_named() -> None:
    named = " ".join(correlation_table({**correlation_header(["idcor"]), "dimension": "mle"}).notes)
    assert "dimensions by mle" in named
    assert "dimensions by" not in " ".join(correlation_table(correlation_header(["idcor"])).notes)


def test_formats_hold_the_same_values() -> None:
    table = Table("T", {"name": "", "value": ".2f"}, [["a b", 0.123456], ["c", math.nan], ["d", None]], ["a note"])
    parsed = json.loads(as_json(table))
    assert parsed["rows"] == [
        {"name": "a b", "value": 0.123456},
        {"name": "c", "value": None},
        {"name": "d", "value": None},
    ]
    assert parsed["notes"] == ["a note"]
    assert list(csv.reader(as_csv(table).splitlines())) == [
        ["name", "value"],
        ["a b", "0.123456"],
        ["c", ""],
        ["d", ""],
    ]
    lines = as_markdown(table).splitlines()
    assert lines[1] == "| --- | ---: |" and lines[3] == "| c | - |" and lines[-1] == "a note"


def test_several_numbers_of_a_cell_have_a_heading_each_in_json_and_csv() -> None:
    """Also where no row has them, or fewer."""
    rows = [["x", interval(0.125, math.nan, ".2f"), True], ["y", None, False], ["z", 0.5, None]]
    table = Table("T", {"name": "", "value": "."} | {"sure": ""}, rows, parts={"value": ENDS})
    assert [row[1:] for row in table.cells()] == [["0.12 to -", "yes"], ["-", "no"], ["0.5", "-"]]
    assert json.loads(as_json(table))["rows"] == [
        {"name": "x", "value low": 0.125, "value high": None, "sure": True},
        {"name": "y", "value low": None, "value high": None, "sure": False},
        {"name": "z", "value low": 0.5, "value high": None, "sure": None},
    ]
    assert as_csv(table).splitlines()[:2] == ["name,value low,value high,sure", "x,0.125,,True"]
    (one,) = joined(
        [("a", [Table("t", table.columns, rows[:1], parts=table.parts)]), ("b", [Table("t", table.columns, rows[1:2])])]
    )
    assert one.headings() == ["file", *table.headings()]


def test_names_can_neither_add_a_cell_nor_reach_the_terminal() -> None:
    table = Table("t", {"fi|le": "", "n": "d"}, [["a|b\n\x1b[2J\u202e\udce9é", 1]], ["of \x1b"])
    assert table.cells() == [["a|b\\n\\x1b[2J\\u202e\\udce9é", "1"]]
    lines = as_markdown(table).splitlines()
    assert (
        lines[0] == "| fi\\|le | n |"
        and lines[2] == "| a\\|b\\n\\x1b[2J\\u202e\\udce9é | 1 |"
        and lines[-1] == "of \\x1b"
    )
    assert json.loads(as_json(table))["rows"] == [{"fi|le": table.rows[0][0], "n": 1}]
    as_json(table).encode("ascii")
    assert str(DataError("no \x1b[2J\nfile")) == "no \\x1b[2J file"


def test_files_of_a_kind_share_a_table_and_notes_say_whose_they_are() -> None:
    one, other = (Table("t", {"a": "d"}, [[number]], ["all", f"note {number}"]) for number in (1, 2))
    (made,) = joined([("x", [one]), ("y", [other])])
    assert list(made.columns) == ["file", "a"] and made.rows == [["x", 1], ["y", 2]]
    assert made.notes == ["all", "x: note 1", "y: note 2"]


def test_tables_that_do_not_fit_together_are_told_apart_by_their_titles() -> None:
    long = Table("t", {"a": "d"}, [[1], [2]])
    assert [table.title for table in joined([("x", [long]), ("y", [long])])] == ["t: x", "t: y"]
    assert joined([("x", [long])]) == [long]
