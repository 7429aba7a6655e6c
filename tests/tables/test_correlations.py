"""Tables of correlations: both nulls, Table 1, curves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fmtool.errors import ArtifactError
from fmtool.tables.correlations import correlation_table, correlation_tables, table1
from fmtool.tables.table import Table, as_csv, as_json, p_form


def row_of(table: Table) -> dict[str, Any]:
    """The only row, by heading."""
    (row,) = table.rows
    return dict(zip(table.columns, row, strict=True))


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
            between(("adversarial", "fmn", 0.0, 0.5), ("essential", "pgd", 0.0, 0.5)),
        ]
    )
    assert [row[0] for row in table.rows] == [
        "adversarial (FMN) and adversarial (PGD)", "essential and essential", "essential and essential", "FMN", "FMN",
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
                {"statistic": "idcor", "size": 2, "points": [{"n": 4, "reason": "too few"}, {"n": 4, "reason": "equal"}]},
            ],
        },
    }  # fmt: skip
    main, curve = correlation_tables(header)
    assert main.title == "Correlation" and "number of classes" in curve.title
    assert list(curve.columns)[:3] == ["statistic", "k", "subsets"]
    assert curve.rows[0] == ["cosine", 1, 2, 5.0, *map(pytest.approx, (0.5, 0.1, 0.2, 0.375, 0.375, 0.05, 50))]
    assert curve.rows[1][7] is None
    assert curve.rows[2] == ["idcor", 1, 0, *[None] * 8]
    assert curve.notes[1:] == [
        "idcor, k 1: no value for 2 subsets, too few",
        "idcor, k 2: no value for 1 subsets, too few",
        "idcor, k 2: no value for 1 subsets, equal",
    ]
    assert correlation_tables(correlation_header(["cosine"]))[1:] == []


def test_means_over_subsets_of_classes_are_over_those_with_a_value_as_the_note_says() -> None:
    null = {"mean": 0.2, "p": 0.5, "adjusted": None}
    point = {"n": 9, "observed": 0.5, "null": null, "within_class": null}
    refused = {"n": 2, "reason": "too few"}
    curve = [
        {"statistic": "cosine", "size": 2, "points": [point, refused, {**point, "observed": 0.7}]},
        {"statistic": "cosine", "size": 3, "points": [point, {**point, "within_class": None}]},
    ]
    _, table = correlation_tables({**correlation_header(["cosine"]), "curves": {"class_subsets": curve}})
    two, three = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (
        two["subsets"] == 2 and two["observed"] == pytest.approx(0.6) and two["within adjusted"] == pytest.approx(0.5)
    )
    assert three["observed"] == 0.5 and three["within adjusted"] is None
    assert "means over those random subsets of k classes that have a value; std: over these" in table.notes[0]
    assert "no within adjusted value where one of them has no null within classes" in table.notes[0]


def test_curves_say_how_many_pairs_can_not_be_exchanged_within_classes() -> None:
    null = {"mean": 0.2, "p": 0.5, "adjusted": None}
    point = {"n": 9, "observed": 0.5, "null": null, "within_class": null}
    points = [{**point, "alone_in_class": 2}, {**point, "alone_in_class": 4}, point]
    curve = [{"statistic": name, "size": 3, "points": points} for name in ("cosine", "idcor")]
    header = {**correlation_header(["cosine", "idcor"]), "curves": {"class_subsets": curve, "equal_pairs": curve}}
    _, classes, control = correlation_tables(header)
    note = "up to 4 pairs of a subset have no other of their class, and stay as they are within classes"
    assert classes.notes[1:] == [f"k 3: {note}"] and control.notes[1:] == [f"k of control 3: {note}"]
    assert as_csv(classes).split("\n")[0] != as_csv(control).split("\n")[0]


def test_thresholds_have_a_table_with_both_nulls() -> None:
    null = {"mean": 0.2, "low": 0.1, "high": 0.3, "p": 0.01, "adjusted": 0.375}
    within = {"mean": 0.4, "low": 0.3, "high": 0.5, "p": 0.5, "adjusted": None}
    entry = {"statistic": "idcor", "threshold": 1e-5, "columns": [7, 9], "n": 50}
    header = {
        **correlation_header(["idcor"]),
        "curves": {
            "trim": [
                {**entry, "threshold": 0.0, "observed": 0.5, "null": null, "within_class": within},
                {**entry, "observed": 0.4, "null": null, "within_class": None},
                {**entry, "threshold": 0.5, "reason": "too few"},
            ]
        },
    }
    _, table = correlation_tables(header)
    assert table.cells() == [
        ["idcor", "0", "7", "9", "50", "0.500", "0.200", "0.100 to 0.300", "0.0100", "0.375", "0.400", "0.5000", "-"],
        ["idcor", "1e-05", "7", "9", "50", "0.400", "0.200", "0.100 to 0.300", "0.0100", "0.375", "-", "-", "-"],
        ["idcor", "0.5", "7", "9", "50", *["-"] * 8],
    ]
    assert table.notes[1:] == ["idcor, threshold 0.5: no value, too few"]


def test_p_has_decimals_enough_for_its_floor() -> None:
    assert [p_form(count) for count in (99, 9_999, 19_999, 999_999)] == [".4f", ".4f", ".5f", ".6f"]
    assert [p_form(count, least=3) for count in (999, 9_999)] == [".3f", ".4f"]
    header = {**correlation_header(["idcor"]), "permutations": 99_999}
    assert correlation_table(header).columns["p"] == table1([header]).columns["idcor p"] == ".5f"


def test_the_main_table_says_what_was_done_to_the_rows() -> None:
    header = {**correlation_header(["cosine"]), "pool": 7, "trim": 0.001, "row_normalise": False}
    assert "settings: rows as they are, pooled by 7, entries above 0.001" in correlation_table(header).notes
    assert not any("settings" in note for note in correlation_table(correlation_header(["cosine"])).notes)


def test_table_1_says_what_each_file_leaves_out() -> None:
    one, other = correlation_header(["cosine"]), correlation_header(["cosine"])
    other |= {"dropped": {}, "left_out": {"idcor": "too few rows"}}
    notes = table1([one, other], ["a", "b"]).notes
    assert "FMN: a: rows left out: 3 not preserved on both sides" in notes
    assert "FMN: b, idcor: left out, too few rows" in notes
    assert not any(note.startswith("FMN: b: rows") for note in notes)


def test_what_the_optimiser_left_behind_is_a_note() -> None:
    residue = {"non_zero": 100, "small": 90, "columns": 50, "small_columns": 40}
    sides = [{"attack": None, "residue": residue}, {"attack": "fmn"}]
    notes = " ".join(correlation_table({**correlation_header(["idcor"]), "sides": sides}).notes)
    assert "A: 90 of 100 non-zero entries are at or below 1e-3, and 40 of 50 columns hold no larger ones" in notes
    assert "B: " not in notes and "idcor scales every column to unit variance" in notes
    assert "idcor" not in " ".join(correlation_table({**correlation_header(["cosine"]), "sides": sides}).notes)


def test_another_estimator_of_the_dimension_is_named() -> None:
    named = " ".join(correlation_table({**correlation_header(["idcor"]), "dimension": "mle"}).notes)
    assert "dimensions by mle" in named
    assert "dimensions by" not in " ".join(correlation_table(correlation_header(["idcor"])).notes)


def test_matrices_are_not_called_masks() -> None:
    """Nor is a row without a name where the files' names are known."""
    matrices = correlation_header(["cka"])
    matrices["sides"] = [{"for": None, "attack": None}] * 2
    table = table1([correlation_header(["cka"]), matrices], ["masks.safetensors", "layers.safetensors"])
    assert table.title == "Correlations" and [row[0] for row in table.rows] == ["FMN", "layers.safetensors"]


@pytest.mark.parametrize(("permutations", "share"), [(9, None), (19, 0.0)])
def test_the_share_of_small_p_is_empty_where_p_can_not_be_small(permutations: int, share: float | None) -> None:
    header = correlation_header(["cka"])
    header["permutations"] = permutations
    null = {**header["statistics"][0]["null"], "p": 0.1}
    point = {"n": 10, "observed": 0.5, "null": null, "within_class": None}
    header["curves"] = {"subsample": [{"statistic": "cka", "size": 10, "points": [point]}]}
    (curve,) = correlation_tables(header)[1:]
    assert row_of(curve)["p <= 0.05 %"] == share
