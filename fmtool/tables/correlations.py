"""Tables of correlations: each statistic beside its nulls, and several files as the paper's Table 1."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fmtool.attacks.registry import title
from fmtool.correlation.registry import ADJUSTABLE_BELOW, statistic_kind
from fmtool.errors import ArtifactError
from fmtool.masks.registry import mask_suffix
from fmtool.tables.headers import Header
from fmtool.tables.table import ENDS, Cell, Table, interval, p_form, text_of

# Kind of curve: title of its table, heading of its sizes, and a note on its rows.
CURVES = {
    "class_subsets": (
        "Correlation against the number of classes",
        "k",
        "means over those random subsets of k classes that have a value; std: over these; adjusted: computed from the means; no "
        "within adjusted value where one of them has no null within classes.",
    ),
    "equal_pairs": (
        "As many pairs of all classes",
        "k of control",  # another heading than above: CSV has no titles
        "the control of the table above: for each subset of k classes, as many random pairs of all classes",
    ),
    "subsample": (
        "Correlation against the number of pairs",
        "size",
        "means over random subsamples without replacement; std: over the subsamples (a spread at that size, not a confidence "
        "interval at n); the last size is all pairs; adjusted: computed from the means.",
    ),
}
SIGNIFICANT = 0.05
DETAILS = {
    **{
        f"{what}_{side}": f"{what} of {name}"
        for what in ("directions", "dimension")
        for side, name in (("x", "A"), ("y", "B"))
    },
    "dimension_joint": "of both",
    "forced": "correlations that are 1 for any data:",
}


def correlation_table(header: Header) -> Table:
    """One row per statistic, beside its nulls."""
    form = p_form(header["permutations"])
    columns = {
        "statistic": "",
        "n": "d",
        "observed": ".3f",
        "null mean": ".3f",
        "null 95 %": "",
        "p": form,
        "adjusted": ".3f",
        "within-class null": ".3f",
        "within 95 %": "",
        "within p": form,
        "within adjusted": ".3f",
    }
    rows, of_statistics = [], list[str]()
    for one in header["statistics"]:
        row = [one["name"], one["n"], one["observed"]]
        for null in (one["null"], one["within_class"]):
            between = interval(null["low"], null["high"], ".3f") if null else None
            row += [null["mean"], between, null["p"], null["adjusted"]] if null else [None] * 4
            why = f"{one['name']}: no adjusted value, {null['reason']}" if null and null["reason"] else ""
            of_statistics += [why] if why and why not in of_statistics else []
        rows.append(row)
        details = ", ".join(f"{DETAILS.get(key, key)} {text_of(value, '.4g')}" for key, value in one["details"].items())
        of_statistics += [f"{one['name']}: {details}"] if details else []
        of_statistics += [f"{one['name']}: left out {_counts(one['dropped'])}"] if one["dropped"] else []
    floor = header["statistics"][0]["null"]["floor"] if header["statistics"] else math.nan
    rule = "strictly above" if header["strict"] else "at or above"
    settings = changed(header)
    notes = [
        f"n = {header['n']} rows; {header['permutations']} permutations; p: share of permutations {rule} the observed "
        f"value, floor {floor:{form}}; adjusted: (observed - null mean) / (1 - null mean).",
        *([f"settings: {', '.join(settings)}"] if settings else []),
        *([f"rows left out: {_counts(header['dropped'])}"] if header["dropped"] else []),
        *of_statistics,
        *(f"{name}: left out, {reason}" for name, reason in header.get("left_out", {}).items()),
        *_residue_notes(header),
    ]
    alone, n = header.get("alone_in_class", 0), header["n"]
    if alone:
        every = "no pair has another of its class: there is no null within classes"
        notes.append(
            every
            if alone == n
            else f"{alone} of {n} pairs have no other of their class, and stay as they are within classes"
        )
    return Table("Correlation", columns, rows, notes, {"null 95 %": ENDS, "within 95 %": ENDS})


def correlation_tables(header: Header) -> list[Table]:
    """The main table, and one for each curve."""
    curves = _curves(header)
    tables = [correlation_table(header), *(curve_table(header, which) for which in CURVES if which in curves)]
    return [*tables, *([trim_table(header)] if "trim" in curves else [])]


def curve_table(header: Header, which: str) -> Table:
    """One row per statistic and size, with means over its subsets; which: a key of the header's `curves`."""
    heading, size, *notes = CURVES[which]
    columns = {
        "statistic": "",
        size: "d",
        "subsets": "d",
        "mean n": ".1f",
        "observed": ".3f",
        "std": ".3f",
        "null mean": ".3f",
        "adjusted": ".3f",
        "within adjusted": ".3f",
        "p mean": p_form(header["permutations"]),
        "p <= 0.05 %": ".0f",
    }
    rows: list[list[Any]] = []
    alone_notes: dict[str, None] = {}  # a set that keeps the order
    for entry in _curves(header)[which]:
        points = [point for point in entry["points"] if "reason" not in point]
        refused = Counter(point["reason"] for point in entry["points"] if "reason" in point)
        for reason, count in refused.items():
            notes.append(f"{entry['statistic']}, {size} {entry['size']}: no value for {count} subsets, {reason}")
        alone = max((point.get("alone_in_class", 0) for point in entry["points"]), default=0)
        if alone:  # the same for every statistic
            note = f"up to {alone} pairs of a subset have no other of their class, and stay as they are within classes"
            alone_notes[f"{size} {entry['size']}: {note}"] = None
        dropped = [point["dropped"] for point in points if point.get("dropped")]
        if dropped:
            most = {name: max(one.get(name, 0) for one in dropped) for one in dropped for name in one}
            notes.append(
                f"{entry['statistic']}, {size} {entry['size']}: {len(dropped)} subsets leave out up to {_counts(most)}"
            )
        row = [entry["statistic"], entry["size"], len(points)]
        rows.append(
            [*row, *_means(points, 1 / (1 + header["permutations"]))]
            if points
            else [*row, *[None] * (len(columns) - 3)]
        )
    return Table(heading, columns, rows, [*notes, *alone_notes])


def trim_table(header: Header) -> Table:
    """One row per statistic and threshold, for a header whose `curves` include `trim`."""
    columns = {
        "statistic": "",
        "threshold": "g",
        "columns A": "d",
        "columns B": "d",
        "n": "d",
        "observed": ".3f",
        "null mean": ".3f",
        "null 95 %": "",
        "p": p_form(header["permutations"]),
        "adjusted": ".3f",
        "within-class null": ".3f",
        "within p": p_form(header["permutations"]),
        "within adjusted": ".3f",
    }
    notes = [
        "entries at or below the threshold are set to 0 first; columns: how many then hold a non-zero entry. "
        "Whether trimmed masks keep their class is not tested here."
    ]
    rows: list[list[Any]] = []
    for entry in _curves(header)["trim"]:
        row = [entry["statistic"], entry["threshold"], *entry["columns"], entry["n"]]
        if "reason" in entry:
            rows.append([*row, *[None] * (len(columns) - len(row))])
            notes.append(f"{entry['statistic']}, threshold {entry['threshold']:g}: no value, {entry['reason']}")
            continue
        if entry.get("dropped"):
            notes.append(
                f"{entry['statistic']}, threshold {entry['threshold']:g}: left out {_counts(entry['dropped'])}"
            )
        null, within = entry["null"], entry["within_class"] or dict.fromkeys(("mean", "p", "adjusted"))
        between = interval(null["low"], null["high"], ".3f")
        row += [entry["observed"], null["mean"], between, null["p"], null["adjusted"]]
        rows.append([*row, within["mean"], within["p"], within["adjusted"]])
    return Table("Correlation against the threshold of entries", columns, rows, notes, {"null 95 %": ENDS})


def _residue_notes(header: Header) -> list[str]:
    """How many small entries the optimiser left in A and B, if any."""
    residues = [(name, side.get("residue")) for name, side in zip("AB", header["sides"], strict=True)]
    notes = [
        f"{name}: {residue['small']} of {residue['non_zero']} non-zero entries are at or below 1e-3, and "
        f"{residue['small_columns']} of {residue['columns']} columns hold no larger ones"
        for name, residue in residues
        if residue and residue["small"]
    ]
    standardised = any(one["name"] == "idcor" for one in header["statistics"])
    if notes and standardised:
        notes.append(
            "idcor scales every column to unit variance, however small its entries: compare with --trim 0,1e-3."
        )
    return notes


def table1(headers: Sequence[Header], names: Sequence[str] = ()) -> Table:
    """Several correlations, laid out like the paper's Table 1: a row for each attack, every statistic beside its null.

    Noise ceilings, two fits of the same masks, come last: they show how high a value can get. names: those of the files, to
    distinguish rows of the same attack. If settings differ, they have a column.
    """
    held = [{one["name"]: one for one in header["statistics"]} for header in headers]
    statistics_ = list(dict.fromkeys(name for one in held for name in one))
    if not set(held[0]).intersection(*held[1:]):
        raise ArtifactError(
            "the correlation files share no statistic: expected at least one in all of them for one table"
        )
    labels, settings = [_label(header["sides"]) for header in headers], [_settings(header) for header in headers]
    if len(names) == len(labels):
        labels = [
            f"{one}: {name}" if one and labels.count(one) > 1 else one or name
            for one, name in zip(labels, names, strict=True)
        ]
    alike = len(set(settings)) == 1
    form = p_form(max(header["permutations"] for header in headers))
    columns: dict[str, str] = {"attack": "", **({} if alike else {"settings": ""}), "n": "d"}
    for name in statistics_:
        kind = statistic_kind(name)
        columns |= {kind.heading: ".3f", f"{name} null": ".3f", f"{name} adj.": ".3f", f"{name} within adj.": ".3f"}
        columns |= {f"{name} p": form} if kind.p_in_table1 else {}
    rows: list[tuple[bool, list[Any]]] = []
    for header, holds, label, setting in zip(headers, held, labels, settings, strict=True):
        row: list[Any] = [label, *([] if alike else [setting]), header["n"]]
        for name in statistics_:
            row += _cells(name, holds.get(name))
        rows.append((is_ceiling(header["sides"]), row))
    note = (
        f"null: mean of {settings[0] if alike else 'the permutations'}; adj.: (observed - null) / (1 - null); "
        "within adj.: the same with the null within classes"
    )
    floor = f"; p floor {1 / (1 + headers[0]['permutations']):{form}}" if alike else ""
    masks = all(are_masks(header["sides"]) for header in headers)
    return Table(
        "Correlation of essential and adversarial masks (as Table 1)" if masks else "Correlations",
        columns,
        [row for _, row in sorted(rows, key=lambda entry: entry[0])],
        [
            f"{note}{floor}",
            *(line for header, label in zip(headers, labels, strict=True) for line in _left_out(header, label or "-")),
        ],
        {kind.heading: ("", " std") for kind in map(statistic_kind, statistics_) if kind.std_in_table1},
    )


def _left_out(header: Header, label: str) -> list[str]:
    """What the row of this label leaves out: pairs, statistics, and pairs of a single statistic."""
    return [
        *([f"{label}: rows left out: {_counts(header['dropped'])}"] if header["dropped"] else []),
        *(f"{label}, {name}: left out, {reason}" for name, reason in header.get("left_out", {}).items()),
        *(
            f"{label}, {one['name']}: left out {_counts(one['dropped'])}"
            for one in header["statistics"]
            if one["dropped"]
        ),
    ]


def is_ceiling(sides: Sequence[Mapping[str, Any]]) -> bool:
    """Whether both sides are fits of the same masks, from starts that differ by rounding (`fit-masks --perturb`)."""
    one, other = ((purpose(side), side.get("lambda"), side.get("model")) for side in sides)
    return one == other and bool(one[0]) and sides[0].get("perturb", 0.0) != sides[1].get("perturb", 0.0)


def purpose(side: Mapping[str, Any]) -> str:
    """The purpose of a side's masks; essential ones do not depend on the attack whose file their images came from."""
    attack = f" ({title(side['attack'])})" if side.get("for") == "adversarial" and side["attack"] else ""
    return f"{side.get('for') or ''}{attack}{mask_suffix(side)}"


def are_masks(sides: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a side is masks, rather than a matrix of another program."""
    return any(side.get("for") or side.get("attack") for side in sides)


def attacked_side(sides: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The side whose attack the correlation is about: essential masks may name another, whose file their images came from."""
    named = [side for side in reversed(sides) if side["attack"]]
    return next((side for side in named if side.get("for") == "adversarial"), named[0] if named else None)


def _label(sides: Sequence[Mapping[str, Any]]) -> str | None:
    """The label of a row of Table 1: the attack, a noise ceiling, or both sides if of the same purpose; None if unknown."""
    one, other = map(purpose, sides)
    if is_ceiling(sides):
        return f"noise ceiling, {one}"
    if sides[0].get("for") and sides[0].get("for") == sides[1].get("for"):
        return f"{one} and {other}"
    side = attacked_side(sides)
    return title(side["attack"]) + mask_suffix(side) if side else None


def _settings(header: Header) -> str:
    """How a file's values and nulls were computed."""
    return ", ".join(
        [
            f"{header['permutations']} permutations",
            *(["strict p"] if header["strict"] else []),
            *changed(header),
        ]
    )


def changed(header: Header, pool: int | None = None) -> list[str]:
    """How the statistics were computed, where that is not the default; pool: the one that goes without saying."""
    return [
        *([f"dimensions by {header['dimension']}"] if header.get("dimension", "twonn") != "twonn" else []),
        *(["rows as they are"] if header.get("row_normalise") is False else []),
        *([f"pooled by {header['pool']}"] if header.get("pool") not in (None, pool) else []),
        *([f"entries above {header['trim']:g}"] if header.get("trim") else []),
    ]


def _cells(name: str, one: Mapping[str, Any] | None) -> list[Any]:
    """A statistic's cells in Table 1, empty if the file lacks it."""
    p = statistic_kind(name).p_in_table1
    if one is None:
        return [None] * (4 + p)
    within = one["within_class"]
    cells = [_with_std(one), one["null"]["mean"], one["null"]["adjusted"], within and within["adjusted"]]
    return [*cells, one["null"]["p"]] if p else cells


def _with_std(one: Mapping[str, Any]) -> Any:
    std = one["details"].get("std") if statistic_kind(one["name"]).std_in_table1 else None
    if std is None:
        return one["observed"]
    return Cell(f"{text_of(one['observed'], '.3f')} ± {text_of(std, '.3f')}", (one["observed"], std))


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in dropped.items())


def _curves(header: Header) -> Mapping[str, list[dict[str, Any]]]:
    curves: Mapping[str, list[dict[str, Any]]] = header.get("curves", {})
    return curves


def _means(points: Sequence[Mapping[str, Any]], floor: float) -> list[Any]:
    """Over some subsets: n, observed value and its population std, null, both adjusted values, p, and the share of p <= 0.05
    where p's floor is that small.
    """
    observed = [point["observed"] for point in points]
    p = [point["null"]["p"] for point in points]
    return [
        _mean([point["n"] for point in points]),
        _mean(observed),
        statistics.pstdev(observed) if len(observed) > 1 else None,
        _mean([point["null"]["mean"] for point in points]),
        _adjusted(points, "null"),
        _adjusted(points, "within_class"),
        _mean(p),
        100 * sum(value <= SIGNIFICANT for value in p) / len(p) if floor <= SIGNIFICANT else None,
    ]


def _adjusted(points: Sequence[Mapping[str, Any]], null: str) -> float | None:
    """From the mean observed value and the mean null: averaging the points' own ratios would magnify noise."""
    means = [point[null]["mean"] if point[null] else None for point in points]
    observed, expected = _mean([point["observed"] for point in points]), _mean(means)
    if observed is None or expected is None or expected >= ADJUSTABLE_BELOW:
        return None
    return (observed - expected) / (1 - expected)


def _mean(values: Sequence[float | None]) -> float | None:
    """None if a value is None: the mean of the others would be over other subsets than its neighbours'."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
