"""The table of attacks: names, bounds in each norm, and options as text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fmtool.attacks.registry import ATTACKS, check_epsilon, masks_title, parse_options, title
from fmtool.errors import AttackError


def test_titles_are_the_papers_or_the_classs_own_name() -> None:
    assert [title(name) for name in ATTACKS] == ["FMN", "PGD", "DeepFool"]
    assert title("L2PGD") == "L2PGD"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"robust": True, "attack": "fmn"}, "robust FMN"),
        ({"robust": False, "attack": None, "basis": "dct"}, "plain, dct"),
        ({"robust": True, "attack": "L2PGD", "basis": "fourier"}, "robust L2PGD"),
    ],
)
def test_class_masks_are_named_by_attack_and_basis(fields: dict[str, Any], expected: str) -> None:
    assert masks_title(fields) == expected


@pytest.mark.parametrize(("norm", "largest"), [("l-inf", 1.0), ("l2", math.sqrt(12)), ("l1", 12.0), (None, 1.0)])
def test_the_largest_bound_is_the_distance_between_black_and_white(norm: str | None, largest: float) -> None:
    check_epsilon(largest, norm, (3, 2, 2))
    check_epsilon(1e-9, norm, (3, 2, 2))
    for epsilon in (0.0, -0.1, largest * 1.01, math.nan):
        with pytest.raises(
            AttackError, match=rf"--epsilon .*: expected an? .*distance above 0 and at most {largest:.6g},"
        ):
            check_epsilon(epsilon, norm, (3, 2, 2))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", 100), ("0.5", 0.5), ("None", None), ("True", True), ("l2", "l2"), ("[1, 2]", [1, 2]), ("1 +", "1 +"),
        ("(" * 999, "(" * 999),
    ],
)  # fmt: skip
def test_options_are_literals_or_text(text: str, value: Any) -> None:
    assert parse_options({"steps": text}) == {"steps": value}
