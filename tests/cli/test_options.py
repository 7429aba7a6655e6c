"""Options that several commands share: values as KEY=VALUE, and the line that ends a help text."""

from __future__ import annotations

import pytest

from fmtool.cli.options import example, literals
from fmtool.errors import ModelError


def test_values_are_literals_and_each_key_is_given_once() -> None:
    texts = ["width=7", "kind=a b", "at=x=y", "none="]
    with pytest.raises(ModelError, match=r"^--factory-option width: given twice$"):
        literals([*texts, "width=6"], "--factory-option")
    assert literals(texts, "--factory-option") == {"width": 7, "kind": "a b", "at": "x=y", "none": ""}
    assert literals(None, "--factory-option") == literals([], "--factory-option") == {}


def test_what_has_no_equals_sign_is_refused_by_the_options_name() -> None:
    with pytest.raises(ModelError, match=r"^--factory-option width: expected KEY=VALUE$"):
        literals(["depth=3", "width"], "--factory-option")


@pytest.mark.parametrize("value", ["true", "false", "FALSE", "none"])
def test_truths_that_python_does_not_know_are_refused(value: str) -> None:
    """Any text counts as True."""
    with pytest.raises(ModelError, match=f"--factory-option flag={value}: expected True, False or None"):
        literals(["flag=" + value], "--factory-option")
    assert literals(["flag='none'x", "other=False"], "--factory-option") == {"flag": "'none'x", "other": False}


def test_an_example_is_a_line_that_is_not_wrapped() -> None:
    assert example("fmtool doctor") == "\b\nExample:\n  fmtool doctor"
