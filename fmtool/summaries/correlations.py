"""Tables of correlations: each statistic beside its nulls, and several files as the paper's Table 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fmtool.attacks import title
from fmtool.errors import ArtifactError
from fmtool.summaries.headers import Header
from fmtool.tables import Table, text_of

HEADINGS = {"svcca": "SVCCA", "cosine": "cosine", "idcor": "IdCor"}


def correlation_table(header: Header) -> Table:
    """A row a statistic, each beside its nulls."""
    columns = {
        "statistic": "",
        "n": "d",
        "observed": ".3f",
        "null mean": ".3f",
        "null 95 %": "",
        "p": ".4f",
        "adjusted": ".3f",
        "within-class null": ".3f",
        "within 95 %": "",
        "within p": ".4f",
        "within adjusted": ".3f",
    }
    rows, notes = [], []
    for one in header["statistics"]:
        row = [one["name"], one["n"], one["observed"]]
        for null in (one["null"], one["within_class"]):
            row += [null["mean"], _interval(null), null["p"], null["adjusted"]] if null else [None] * 4
            if null and null["reason"]:
                notes.append(f"{one['name']}: no adjusted value, {null['reason']}")
        rows.append(row)
        details = ", ".join(f"{key.replace('_', ' ')} {text_of(value, '.4g')}" for key, value in one["details"].items())
        notes += [f"{one['name']}: {details}"] if details else []
        notes += [f"{one['name']}: left out {_counts(one['dropped'])}"] if one["dropped"] else []
    floor = header["statistics"][0]["null"]["floor"] if header["statistics"] else math.nan
    rule = "strictly above" if header["strict"] else "at or above"
    notes.insert(
        0,
        f"n = {header['n']} rows; {header['permutations']} permutations; p: share of shuffles {rule} the observed "
        f"value, floor {floor:.4f}; adjusted: (observed - null mean) / (1 - null mean).",
    )
    if header["dropped"]:
        notes.insert(1, f"rows left out: {_counts(header['dropped'])}")
    return Table("Correlation", columns, rows, notes)


def table1(headers: Sequence[Header]) -> Table:
    """Several correlations, laid out like the paper's Table 1: a row an attack, every statistic beside its null."""
    names = [one["name"] for one in headers[0]["statistics"]]
    columns: dict[str, str] = {"attack": "", "n": "d"}
    for name in names:
        columns |= {HEADINGS.get(name, name): ".3f", f"{name} null": ".3f", f"{name} adj.": ".3f"}
        columns |= {f"{name} p": ".4f"} if name == "idcor" else {}
    rows: list[list[Any]] = []
    for header in headers:
        if [one["name"] for one in header["statistics"]] != names:
            raise ArtifactError("the correlation files hold different statistics: expected the same ones for one table")
        attack = next((side["attack"] for side in reversed(header["sides"]) if side["attack"]), None)
        row: list[Any] = [title(attack or "-"), header["n"]]
        for one in header["statistics"]:
            row += [_with_std(one), one["null"]["mean"], one["null"]["adjusted"]]
            row += [one["null"]["p"]] if one["name"] == "idcor" else []
        rows.append(row)
    one = headers[0]
    note = f"null: mean of {one['permutations']} permutations; adj.: (observed - null) / (1 - null)"
    floor = 1 / (1 + one["permutations"])
    return Table(
        "Correlation of essential and adversarial masks (as Table 1)", columns, rows, [f"{note}; p floor {floor:.4f}"]
    )


def _with_std(one: Mapping[str, Any]) -> Any:
    std = one["details"].get("std") if one["name"] == "cosine" else None
    return one["observed"] if std is None else f"{text_of(one['observed'], '.3f')} ± {text_of(std, '.3f')}"


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in dropped.items())


def _interval(null: Mapping[str, Any]) -> str:
    return f"{text_of(null['low'], '.3f')} to {text_of(null['high'], '.3f')}"
