"""The attacks that have a short name. Reading this table imports nothing heavy.

To add an attack, write `fmtool/attacks/<module>.py` with a subclass of a Foolbox attack and add one line to `ATTACKS`; an attack
that Foolbox has needs the line alone.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OK, WRONG_BEFORE, FAILED = 0, 1, 2  # an attacked image's status
STATUS_NAMES = {OK: "ok", WRONG_BEFORE: "wrong before, not attacked", FAILED: "attack failed"}


@dataclass(frozen=True)
class Known:
    """An attack with a short name: its class, its name in tables, and whether it takes an epsilon."""

    foolbox_class: str  # a class of `foolbox.attacks`, or "module:Class" of a subclass in `fmtool/attacks`
    title: str
    bounded: bool


ATTACKS: dict[str, Known] = {
    "fmn": Known("LInfFMNAttack", "FMN", bounded=False),
    "pgd": Known("LinfPGD", "PGD", bounded=True),
    "deepfool": Known("LinfDeepFoolAttack", "DeepFool", bounded=False),
}


def title(name: str) -> str:
    """The name in tables: the paper's, or Foolbox's class."""
    return ATTACKS[name].title if name in ATTACKS else name


def masks_title(fields: Mapping[str, Any]) -> str:
    """The name of class masks in tables, from `robust`, `attack` and `basis` of their header: "robust FMN" or "plain, dct"."""
    name = f"robust {title(str(fields['attack']))}" if fields["robust"] else "plain"
    basis = fields.get("basis", "fourier")
    return name if basis == "fourier" else f"{name}, {basis}"


def parse_options(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Values of --attack-option as Python literals, or as text where they aren't one."""
    found: dict[str, Any] = {}
    for name, value in pairs.items():
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found[name] = value
    return found
