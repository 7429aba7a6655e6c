"""What the options of `fmtool attack` may be."""

from __future__ import annotations

import pytest

from fmtool.cli.attack import parse_epsilon
from fmtool.errors import AttackError


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "8/0", "8/", "eight", "", "1e400", "1e99999999"])
def test_epsilon_out_of_range(text: str) -> None:
    with pytest.raises(AttackError, match="--epsilon"):
        parse_epsilon(text)


def test_epsilon_as_a_fraction() -> None:
    assert parse_epsilon("8/255") == 8 / 255
    assert parse_epsilon("0.5") == 0.5
