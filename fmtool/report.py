"""Tables of results: what an artifact says, as columns and rows, and their text as CSV, Markdown or JSON. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fmtool.attacks import FAILED, STATUS_NAMES, WRONG_BEFORE, title
from fmtool.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np

ROWS = 256  # of a file's masks read at a time
FORMATS = ("table", "json", "csv", "markdown")
Arrays = Mapping[str, "np.ndarray[Any, Any]"]
Header = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """columns: heading -> format of its numbers; rows hold raw values, None where there is none; notes stand below."""

    title: str
    columns: dict[str, str]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [
            [_text(value, form) for value, form in zip(row, self.columns.values(), strict=True)] for row in self.rows
        ]


def as_json(table: Table) -> str:
    """One object: title, rows (each an object from heading to value, null for NaN), notes."""
    rows = [{name: _plain(value) for name, value in zip(table.columns, row, strict=True)} for row in table.rows]
    return json.dumps({"title": table.title, "rows": rows, "notes": table.notes}, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: Table) -> str:
    """A header line and a line a row, numbers in full; notes are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if _plain(value) is None else value for value in row] for row in table.rows])
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """A pipe table, numbers to the right, and its notes below."""
    right = ["---:" if form else "---" for form in table.columns.values()]
    lines = [list(table.columns), right, *table.cells()]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n{note}" for note in table.notes)
    return f"{body}\n{notes}\n" if notes else f"{body}\n"


TEXTS: dict[str, Callable[[Table], str]] = {"json": as_json, "csv": as_csv, "markdown": as_markdown}


def attack_table(header: Header, arrays: Arrays) -> Table:
    """Accuracy before and after, success, and the median l-inf distance over the images that were right before."""
    import numpy as np

    status = arrays["status"]
    n, right = len(status), status != WRONG_BEFORE
    failed = status == FAILED
    distance = np.abs(arrays["adversarial"] - arrays["images"]).reshape(n, -1).max(axis=1).astype(float)
    # an attack that failed has found no distance, however large: it must not make the median smaller
    distance[failed] = np.inf
    after = (arrays["adversarial_predictions"] == arrays["labels"]).mean()
    row = [
        title(header["attack"]),
        n,
        100 * right.mean(),
        100 * after,
        100 * (1 - failed[right].mean()),
        float(np.median(distance[right])),
        255 * float(np.median(distance[right])),
    ]
    columns = {
        "attack": "",
        "n": "d",
        "clean accuracy %": ".2f",
        "accuracy attacked %": ".2f",
        "success %": ".2f",
        "median l-inf": ".4f",
        "in 1/255": ".3f",
    }
    counts = ", ".join(f"{int((status == code).sum())} {name}" for code, name in STATUS_NAMES.items())
    options = ", ".join(f"{key}={value}" for key, value in sorted(header["options"].items()) if value is not None)
    return Table(
        "Attack",
        columns,
        [row],
        [f"{counts}. success and l-inf: over the {int(right.sum())} images right before.", f"options: {options}"],
    )


def masks_table(header: Header, arrays: Arrays) -> Table:
    """How many masks keep their class, how sparse they are, and how long they took."""
    import numpy as np

    masks, steps = arrays["masks"], arrays["steps"]
    kept = _kept(masks, int(header["image_size"][1]))
    total = masks.shape[1] * header["image_size"][0] * header["image_size"][1]
    columns = {
        "for": "",
        "attack": "",
        "n": "d",
        "preserved %": ".1f",
        "as stored %": ".1f",
        "converged %": ".1f",
        "kept entries": ".0f",
        "of": "d",
        "steps": ".0f",
        "most steps": "d",
        "loss": ".3f",
    }
    row = [
        header["for"],
        title(header["attack"] or "-"),
        len(steps),
        100 * arrays["preserved"].mean(),
        100 * arrays["preserved_stored"].mean(),
        100 * arrays["converged"].mean(),
        float(np.median(kept)),
        total,
        float(steps.mean()),
        int(steps.max()),
        float(np.median(arrays["loss"])),
    ]
    return Table(
        "Masks",
        columns,
        [row],
        [f"lambda {header['lambda']:g}. kept entries (above 1e-3) and loss: medians; steps: mean."],
    )


def class_masks_table(header: Header, arrays: Arrays) -> Table:
    """A row a class: steps, loss, kept entries."""
    masks = arrays["masks"]
    kept = _kept(masks, int(header["image_size"][1]))
    total = masks.shape[1] * header["image_size"][0] * header["image_size"][1]
    columns = {
        "class": "",
        "steps": "d",
        "converged": "",
        "loss": ".4f",
        "kept entries": "d",
        "of": "d",
        "mean entry": ".3f",
    }
    rows = [
        [
            header["class_names"][number],
            int(steps),
            "yes" if converged else "no",
            float(loss),
            int(count),
            total,
            float(mean),
        ]
        for number, steps, converged, loss, count, mean in zip(
            arrays["classes"],
            arrays["steps"],
            arrays["converged"],
            arrays["loss"],
            kept,
            masks.mean(axis=(1, 2, 3)),
            strict=True,
        )
    ]
    what = f"robust against {title(header['attack'])}" if header["robust"] else "plain"
    used = " and ".join(f"{n} {name}" for n, name in zip(header["images"], ("clean", "adversarial"), strict=False))
    return Table("Class masks", columns, rows, [f"{what}, lambda {header['lambda']:g}, fitted to {used} images"])


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
        details = ", ".join(f"{key.replace('_', ' ')} {_text(value, '.4g')}" for key, value in one["details"].items())
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


HEADINGS = {"svcca": "SVCCA", "cosine": "cosine", "idcor": "IdCor"}


def _with_std(one: Mapping[str, Any]) -> Any:
    std = one["details"].get("std") if one["name"] == "cosine" else None
    return one["observed"] if std is None else f"{_text(one['observed'], '.3f')} ± {_text(std, '.3f')}"


def defense_table(header: Header) -> Table:
    """The matrix of Table 4: accuracy after the second pass and, in brackets, the authors' figure."""
    columns = {"data": "", **{("no mask" if name == "none" else name): "." for name in header["columns"]}}
    rows = [
        [title(name), *(f"{cell['accuracy']:.3f} ({cell['accuracy_right_before']:.3f})" for cell in cells)]
        for name, cells in zip(header["rows"], header["matrix"], strict=True)
    ]
    kind = "adaptive" if header["adaptive"] else "non-adaptive: the attacks knew nothing of the masks"
    note = (
        f"n = {header['n']}; accuracy, in brackets counting only images right when clean (the authors' figure); {kind}"
    )
    return Table("Accuracy after the second pass (as Table 4)", columns, rows, [note])


def model_table(header: Header) -> Table:
    """What a model is."""
    accuracy = header["accuracy"]
    row = [
        header["architecture"],
        "x".join(map(str, header["input_shape"])),
        len(header["class_names"]),
        "yes" if header["mean"] else "no",
        None if accuracy is None else 100 * accuracy,
    ]
    columns = {"architecture": "", "input": "", "classes": "d", "normalises": "", "test accuracy %": ".2f"}
    return Table("Model", columns, [row])


def table_of(kind: str, header: Header, arrays: Arrays) -> Table:
    """The table of any artifact."""
    tables: dict[str, Callable[[], Table]] = {
        "model": lambda: model_table(header),
        "attack": lambda: attack_table(header, arrays),
        "masks": lambda: masks_table(header, arrays),
        "class-masks": lambda: class_masks_table(header, arrays),
        "correlation": lambda: correlation_table(header),
        "defense": lambda: defense_table(header),
    }
    return tables[kind]()


def _kept(masks: Any, w: int) -> np.ndarray[Any, Any]:
    """(n) entries above 1e-3 per mask, counted over the full spectrum: `spectrum.kept_entries` without torch.

    masks (n, c, h, w // 2 + 1): an array, or rows of a file, of which a few are read at a time.
    """
    import numpy as np

    counts = np.full(masks.shape[-1], 2)
    counts[0] = 1
    if w % 2 == 0:
        counts[-1] = 1
    kept = [
        ((np.asarray(masks[start : start + ROWS]) > 1e-3) * counts).sum(axis=(1, 2, 3))
        for start in range(0, masks.shape[0], ROWS)
    ]
    return np.concatenate(kept or [np.zeros(0)])


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in dropped.items())


def _interval(null: Mapping[str, Any]) -> str:
    return f"{_text(null['low'], '.3f')} to {_text(null['high'], '.3f')}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any, form: str) -> str:
    if _plain(value) is None:
        return "inf" if value == math.inf else "-"
    return format(value, form) if form not in ("", ".") and not isinstance(value, str) else str(value)
