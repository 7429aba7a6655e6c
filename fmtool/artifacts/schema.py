"""What a file of each kind holds, as tables: tensors with their dtypes and axes, and checks of the header's fields.

Readers may rely on everything here. A digest shows that a file is as it was written, not that fmtool wrote it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

# dtypes of a network's weights, beside those of `format.WIDTHS`, that torch reads
WEIGHTS = ("F16", "BF16", "F8_E4M3", "F8_E5M2", "I32", "I16", "I8", "U64", "U32", "U16", "C64")

_ROWS = {"labels": "I64 n", "key": "I64 n", "index": "I64 n", "source": "I64 n"}
# kind -> tensor -> dtype and axes; an axis letter stands for the same size throughout a file. n images, k classes,
# c channels, h rows, w columns; r rows and s columns of a mask, which depend on its basis and are checked by `masks.basis`.
# Kinds without entries may have any tensors.
TENSORS: dict[str, dict[str, str]] = {
    "model": {},
    "attack": {
        "images": "F32 n c h w",
        "adversarial": "F32 n c h w",
        "clean_predictions": "I64 n",
        "adversarial_predictions": "I64 n",
        "status": "I64 n",
        **_ROWS,
    },
    "masks": {
        "masks": "F32 n c r s",
        "targets": "I64 n",
        "preserved": "BOOL n",
        "preserved_stored": "BOOL n",
        "converged": "BOOL n",
        "steps": "I64 n",
        "loss": "F32 n",
        **_ROWS,
    },
    "class-masks": {
        "masks": "F32 k c r s",
        "classes": "I64 k",
        "converged": "BOOL k",
        "steps": "I64 k",
        "loss": "F32 k",
    },
    "correlation": {},
    "defense": dict(_ROWS),
    "heatmap": {
        "wrong": "BOOL n r s",
        "loss": "F32 n r s",
        "clean_wrong": "BOOL n",
        "error_rate": "F32 r s",
        "mean_loss": "F32 r s",
        **_ROWS,
    },
}
# kind -> tensors that only some files have
OPTIONAL_TENSORS = {"masks": {"lambda": "F32 n"}}
LARGEST_IMAGE = 2**23  # values per image, some 1670x1670 in colour: a header of a few bytes must not demand all memory
LARGEST_NUMBER = 1e300  # an integer of hundreds of digits does not fit a float
CELL_PARTS = (
    "",
    ", right before",
    ", adaptive",
)  # a defence's headings: both accuracies, whether the attack knew the masks
STATISTIC = re.compile("[a-z][a-z0-9_]{0,39}")  # a statistic's name, which is part of tensor names and headings


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not flag(value) and abs(value) <= LARGEST_NUMBER


def whole(value: Any) -> bool:
    return isinstance(value, int) and not flag(value) and 0 <= value < 2**64


def scalar(value: Any) -> bool:
    return value is None or text(value) or flag(value) or number(value)


def anything(value: Any) -> bool:
    return True


def maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def several(check: Check, least: int = 0) -> Check:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def two(check: Check) -> Check:
    return lambda value: several(check)(value) and len(value) == 2


def each(check: Check) -> Check:
    """An object with any names."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def record(needed: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields; `others` may be absent, and further fields are ignored."""
    known = {**needed, **(others or {})}

    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and needed.keys() <= value.keys()
            and all(known[name](field) for name, field in value.items() if name in known)
        )

    return check


def _sizes(count: int) -> Check:
    """The axes of an image."""
    axes = several(lambda value: whole(value) and value > 0, count)
    return lambda value: axes(value) and len(value) == count and math.prod(value) <= LARGEST_IMAGE


def _statistic_name(value: Any) -> bool:
    return text(value) and STATISTIC.fullmatch(value) is not None


def _digest(value: Any) -> bool:
    return text(value) and len(value) == 64


NAMES = several(text, 1)
DATA = several(record({"name": text, "split": text}))
NUMBERS = several(number)
_null = record(
    {**dict.fromkeys(("mean", "low", "high", "p", "floor", "adjusted"), maybe(number)), "reason": maybe(text)}
)
_observed: dict[str, Check] = {"observed": maybe(number), "null": _null, "within_class": maybe(_null)}
_statistic = record({
    "name": _statistic_name, "n": whole, "dropped": each(whole), "details": each(maybe(number)), **_observed,
})  # fmt: skip
_refused = record({"n": whole, "reason": text})
_valued = record({"n": whole, **_observed}, {"dropped": each(whole), "alone_in_class": whole})


def _point(value: Any) -> bool:
    return _refused(value) or (isinstance(value, dict) and "reason" not in value and _valued(value))


_entry = record({
    "statistic": _statistic_name,
    "size": lambda value: whole(value) and value > 0,
    "points": several(_point),
})  # fmt: skip
_residue = record(dict.fromkeys(("non_zero", "small", "columns", "small_columns"), whole))
_side = record(
    {"for": maybe(text), "attack": maybe(text), "shape": several(whole)},
    {"perturb": number, "residue": _residue, "layer": text, "basis": text, "objective": text, "adapt_lambda": flag},
)
_trimmed_entry = record({
    "statistic": _statistic_name, "threshold": lambda value: number(value) and value >= 0,
    "columns": two(whole),
})  # fmt: skip
_layer = record({"name": text, "type": text, "shape": several(whole), "cut": flag})
_cell = record({"accuracy": number, "accuracy_right_before": number}, {"adaptive": flag})
_fooled = record({"two_pass": whole, "class_masks": whole})

# kind -> header fields that a reader relies on
FIELDS: dict[str, dict[str, Check]] = {
    "model": {
        "architecture": text, "outputs": whole, "input_shape": _sizes(3), "class_names": NAMES, "mean": maybe(NUMBERS),
        "std": maybe(NUMBERS), "keep_classes": maybe(several(whole, 1)), "head": maybe(record({"layer": text, "classes": whole})),
        "accuracy": maybe(number),
    },
    "attack": {"attack": text, "options": each(scalar), "class_names": NAMES, "data": DATA},
    "masks": {
        "for": lambda value: value in ("essential", "adversarial"), "attack": maybe(text), "lambda": number,
        "image_size": _sizes(2), "basis": text, "layer": text, "class_names": NAMES, "data": DATA,
    },
    "class-masks": {
        "robust": flag, "attack": maybe(text), "lambda": number, "image_size": _sizes(2), "class_names": NAMES,
        "images": several(whole, 1), "data": DATA,
    },
    "correlation": {
        "statistics": several(_statistic, 1), "n": whole, "permutations": whole, "strict": flag, "dropped": each(whole),
        "sides": two(_side),
    },
    "defense": {
        "matrix": several(several(maybe(_cell)), 1), "rows": several(text), "columns": NAMES, "n": whole, "adaptive": flag,
    },
    "heatmap": {
        "norm": lambda value: number(value) and value > 0, "image_size": _sizes(2), "class_names": NAMES, "data": DATA,
        "filters": maybe(record({"radii": NUMBERS, "right": each(several(whole))})),
    },
}  # fmt: skip
# kind -> fields that only some files have
OPTIONAL_FIELDS: dict[str, dict[str, Check]] = {
    "model": {"arguments": maybe(each(anything)), "layers": several(_layer)},
    "attack": {
        "norm": maybe(lambda value: value in ("l-inf", "l2", "l1", "l0")),
        "defense": maybe(
            record({"digest": _digest, "robust": flag, "attack": maybe(text), "restarts": whole, "found": _fooled})
        ),
    },
    "masks": {"perturb": number, "adapt_lambda": flag, "objective": text},
    "class-masks": {"basis": text},
    "correlation": {
        "dimension": text,
        "row_normalise": flag,
        "alone_in_class": whole,
        "left_out": each(text),
        "trim": maybe(number),
        "curves": record(
            {},
            {
                "class_subsets": several(_entry, 1),
                "equal_pairs": several(_entry, 1),
                "subsample": several(_entry, 1),
                "trim": several(lambda value: _trimmed_entry(value) and _point(value), 1),
            },
        ),
    },
    "defense": {"worst": maybe(several(_cell)), "clean_drop": NUMBERS},
}
_stage = record(
    {
        "command": text, "options": each(anything), "versions": each(text),
        "inputs": several(
            record({"kind": text, "digest": _digest}, {"option": text, "shard": text, "name": text, "split": text})
        ),
    },
    {"seed": whole, "output": _digest, "arguments": several(text)},
)  # fmt: skip
FRAME: dict[str, Check] = {"kind": text, "schema": whole, "digest": _digest, "history": several(_stage)}


def _bounded(header: Mapping[str, Any]) -> bool:
    """An attack on a defence has an epsilon."""
    return not header.get("defense") or number(header["options"].get("epsilon"))


def _rectangular(header: Mapping[str, Any]) -> bool:
    """A defence's table has the size that it states, and its JSON headings are unique."""
    columns = header["columns"]
    rows = [*header["matrix"], *(header[name] for name in ("worst", "clean_drop") if header.get(name) is not None)]
    names = ["no mask" if name == "none" else name for name in columns]
    headings = {"data", *(name + part for name in names for part in CELL_PARTS)}
    square = len(header["matrix"]) == len(header["rows"]) and all(len(row) == len(columns) for row in rows)
    return square and len(headings) == len(CELL_PARTS) * len(columns) + 1


def _distinct(header: Mapping[str, Any]) -> bool:
    """Every statistic appears once."""
    names = [one["name"] for one in header["statistics"]]
    return len(set(names)) == len(names)


def _as_long(header: Mapping[str, Any]) -> bool:
    """Each curve of a heat map's filters has one point per radius."""
    filters = header["filters"]
    kinds = ("low-pass", "high-pass", "band-pass")
    return filters is None or [len(filters["right"].get(kind, [])) for kind in kinds] == [len(filters["radii"])] * 3


# kind -> field -> check of a header whose single fields are valid
CHECKS_OF_HEADER: dict[str, dict[str, Callable[[Mapping[str, Any]], bool]]] = {
    "attack": {"options": _bounded},
    "correlation": {"statistics": _distinct},
    "defense": {"matrix": _rectangular},
    "heatmap": {"filters": _as_long},
}


def damaged(kind: str, header: Mapping[str, Any]) -> list[str]:
    """The names of the fields that are present but invalid for the kind."""
    checks = {**FIELDS[kind], **OPTIONAL_FIELDS.get(kind, {})}
    wrong = [name for name, check in checks.items() if name in header and not check(header[name])]
    return wrong or [name for name, check in CHECKS_OF_HEADER.get(kind, {}).items() if not check(header)]
