"""Names of files in figures, and axes without a box."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
from forged import HEADERS
from matplotlib.figure import Figure

from fmtool.artifacts.format import Artifact
from fmtool.plotting.style import any_letters, distinct, mask_name, number_axes, plain_axes, wrapped


def masks(kind: str = "masks", name: str = "", **header: Any) -> Artifact:
    return dataclasses.replace(Artifact(kind, {**HEADERS[kind], **header}, {}, []), name=name)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (masks(), "essential"),
        (masks(attack="fmn", basis="dct", objective="invariance"), "essential, dct, invariance"),
        (masks(**{"for": "adversarial", "attack": "pgd"}), "adversarial (PGD)"),
        (masks("class-masks"), "class masks, plain"),
        (masks("class-masks", robust=True, attack="L2PGD", basis="haar"), "class masks, robust L2PGD, haar"),
    ],
)
def test_masks_are_named_by_purpose_attack_and_basis(file: Artifact, expected: str) -> None:
    assert mask_name(file) == expected


def test_equal_names_are_told_apart_by_their_files() -> None:
    files = [masks(name="x/a.safetensors"), masks(name=""), masks(name="c")]
    assert distinct(["m", "m", "n"], files) == ["m, a", "m, 2", "n"]
    assert distinct(["m", "n", "o"], files) == ["m", "n", "o"]
    files = [masks(name="x/a.safetensors"), masks(name="y/a.safetensors")]
    assert distinct(["m", "m"], files) == ["m, a, 1", "m, a, 2"]


def test_axes_have_a_left_and_a_lower_line() -> None:
    axes = Figure().subplots()
    plain_axes(axes)
    assert {name for name, spine in axes.spines.items() if spine.get_visible()} == {"left", "bottom"}


def test_only_missing_letters_are_passed_over() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with any_letters():
            warnings.warn("Glyph 28450 missing from font", UserWarning, stacklevel=1)
            with pytest.raises(UserWarning, match="tight layout"):
                warnings.warn("tight layout", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="Glyph"):
            warnings.warn("Glyph 28450 missing from font", UserWarning, stacklevel=1)


@pytest.mark.parametrize(("half", "shown"), [(0.5, ["-0.4", "0", "0.4"]), (0.375, ["0"])])
def test_ticks_beyond_a_small_picture_do_not_widen_its_axes(half: float, shown: list[str]) -> None:
    axes = Figure().subplots()
    extent = (-half, half, half, -half)
    axes.imshow(np.zeros((4, 4)), extent=extent)
    number_axes(axes, [-0.4, 0.0, 0.4], extent, x=True, y=False)
    assert [*axes.get_xlim(), *axes.get_ylim()] == list(extent)
    assert [text.get_text() for text in axes.get_xticklabels()] == shown
    assert [text.get_text() for text in axes.get_yticklabels()] == [""] * len(shown)


def test_long_names_are_wrapped_and_shortened() -> None:
    assert wrapped("English springer", 0.7) == "English\nspringer"
    assert wrapped("black_footed_ferret_a", 0.62) == "black_foot\ned_ferret…"
    assert wrapped(r"aaaaaaaaaaa\$bbb\$cc", 0.7) == "aaaaaaaaaaa\\$\nbbb\\$cc"
    assert wrapped("automobile", 0.73) == "automobile"
    assert wrapped("a class with a name of many words", 0.7, 2) == "a class with\na name of…"
