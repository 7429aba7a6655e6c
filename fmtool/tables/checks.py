"""The table of `check-masks`: how often masks keep their class, beside controls that keep as many entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fmtool.attacks.registry import title
from fmtool.tables.table import Table

if TYPE_CHECKING:
    from fmtool.masks.controls import MaskCheck

WHAT = {
    "essential": "essential masks on clean images: does the label stay?",
    "adversarial": "adversarial masks on adversarial images: does the attack's class stay?",
    "class": "class masks on clean images, each by its true class's: is the image right?",
}


def check_table(check: MaskCheck) -> Table:
    """One row per control; shares in per cent, differences in percentage points."""
    columns = {
        "control": "",
        "n": "d",
        "preserved %": ".1f",
        "low": ".1f",
        "high": ".1f",
        "masks minus control": "+.1f",
        "diff low": "+.1f",
        "diff high": "+.1f",
        "p": ".3f",
    }
    rows: list[list[Any]] = []
    for one in check.controls:
        between = one.difference
        differences = [between.value, between.low, between.high] if between else [None] * 3
        shares = [one.preserved.value, one.preserved.low, one.preserved.high]
        per_cent = [None if value is None else 100 * value for value in (*shares, *differences)]
        rows.append([one.name, one.n, *per_cent, one.p])
    attack = f", {title(check.attack)}" if check.attack else ""
    return Table(f"Checked masks ({check.about}{attack}{check.suffix})", columns, rows, _notes(check))


def _notes(check: MaskCheck) -> list[str]:
    notes = [
        f"{WHAT[check.about]} The masks keep a median of {check.kept_entries:g} of {check.entries} entries.",
        "Controls put the same values on as many other entries of the full mask, equal ones together; the mask of another "
        f"class is used unchanged; random places: mean of {check.draws} draws.",
        "Into that class: how often the other mask turns images into its class, of those neither of that class nor taken for it. "
        "Where that is as often as masks keep theirs, they create their class rather than find it.",
        "low, high: 95 % intervals over images, Wilson's for shares, normal for paired differences in percentage points, or "
        "Newcombe's where all differences are equal.",
        f"p: one-sided, that masks keep their class more often than the control; {check.flips} sign flips over images, floor "
        f"{1 / (1 + check.flips):.3g}.",
    ]
    if any(one.n < check.n for one in check.controls):
        notes.append("Images without such a mask are left out of its row; the difference is over the row's n.")
    return notes
