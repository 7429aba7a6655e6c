"""Errors and warnings: one printable line each, and names that are nearly right."""

from __future__ import annotations

import inspect

import pytest

from fmtool import errors
from fmtool.errors import FmtoolError, FmtoolWarning, first_line, printable, unknown, warn


def test_all_errors_have_one_base() -> None:
    """The command line knows them by it, and shows no traceback unless asked for."""
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)]
    assert [one for one in classes if not issubclass(one, FmtoolError | Warning)] == [] and len(classes) > 5
    assert not FmtoolError("x").debug


def test_a_message_is_one_line_without_control_characters() -> None:
    assert str(FmtoolError("a\n  b\tc \x1b[31m")) == "a b c \\x1b[31m"
    assert str(FmtoolWarning("file\nname")) == "file\\nname"
    assert printable("ü \udce9\u202e") == "ü \\udce9\\u202e"


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("svca", " (did you mean 'svcca'?)"), ("COSINE", " (did you mean 'cosine'?)"), ("idcore", " (did you mean 'IDCOR'?)"),
        ("xyz", ""),
    ],
)  # fmt: skip
def test_the_nearest_name_is_suggested_in_its_own_spelling(name: str, guess: str) -> None:
    expected = f"unknown statistic {name!r}{guess}: expected one of IDCOR, cosine, svcca"
    assert unknown("statistic", name, ["svcca", "cosine", "IDCOR"]) == expected


def test_an_error_without_a_message_is_told_by_its_type() -> None:
    assert first_line(ValueError("\n \n  one\ntwo")) == "one"
    assert first_line(EOFError()) == "EOFError" and first_line(ValueError(" \n")) == "ValueError"


def test_a_warning_points_to_the_callers_caller() -> None:
    """The line that called the function that warns."""

    def stage() -> None:
        warn("few images")

    with pytest.warns(FmtoolWarning, match="^few images$") as caught:
        stage()
    assert caught[0].filename == __file__
    assert caught[0].lineno == inspect.getsourcelines(test_a_warning_points_to_the_callers_caller)[1] + 7
