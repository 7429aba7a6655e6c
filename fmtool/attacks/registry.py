"""The attacks that have a short name. Reading this table imports nothing heavy.

To add an attack, write `fmtool/attacks/<module>.py` with a subclass of a Foolbox attack and add one line to `ATTACKS`; an attack
that Foolbox has needs the line alone.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmtool.errors import AttackError
from fmtool.masks.registry import FOURIER

OK, WRONG_BEFORE, FAILED = 0, 1, 2  # an attacked image's status
STATUS_NAMES = {OK: "ok", WRONG_BEFORE: "wrong before, not attacked", FAILED: "attack failed"}


NORMS = {"l-inf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}  # names of distances -> p


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
    """The name in tables: the paper's, or that of Foolbox's class."""
    return ATTACKS[name].title if name in ATTACKS else name


def masks_title(fields: Mapping[str, Any]) -> str:
    """The name of class masks in tables, from `robust`, `attack` and `basis` of their header: "robust FMN" or "plain, dct"."""
    name = f"robust {title(str(fields['attack']))}" if fields["robust"] else "plain"
    basis = fields.get("basis", FOURIER)
    return name if basis == FOURIER else f"{name}, {basis}"


def check_epsilon(epsilon: float, norm: str | None, shape: Sequence[int]) -> None:
    """AttackError unless a bound is possible for images (c, h, w) in [0, 1]: a distance in the attack's own norm."""
    size = math.prod(shape)
    largest = {"l2": math.sqrt(size), "l1": size, "l0": size}.get(norm or "", 1.0)
    if not 0 < epsilon <= largest:
        unit = f"an {norm} distance" if norm else "a distance"
        raise AttackError(
            f"--epsilon {epsilon:g}: expected {unit} above 0 and at most {largest:.6g}, the largest between two images in [0, 1]"
        )


def parse_options(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Values of --attack-option as Python literals, or as text where they aren't one."""
    values: dict[str, Any] = {}
    for name, value in pairs.items():
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            values[name] = value
    return values
