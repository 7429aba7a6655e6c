"""Files that belong together: their model, and the names of their classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from small_files import FEW, changed, load

import fmtool
from fmtool.errors import ArtifactError


@pytest.mark.slow
def test_another_model_is_refused_unless_told_otherwise(files: Path) -> None:
    model, attack = load(files, "model"), load(files, "fmn")
    other = changed(model, **{"linear.bias": model["linear.bias"] + 1})
    with pytest.raises(ArtifactError, match="was made with model"):
        fmtool.fit_masks(other, attack, for_="essential", **FEW)
    with pytest.raises(ArtifactError, match="was made with model"):
        fmtool.defend(other, [attack], [load(files, "plain")])
    assert len(
        fmtool.fit_masks(other, attack, for_="essential", **FEW, execution=fmtool.Execution(allow_other_model=True))[
            "labels"
        ]
    )


@pytest.mark.slow
def test_classes_go_by_the_datas_names_where_it_has_any(files: Path) -> None:
    """An imported model knows numbers only; the tables and pictures should not."""
    model, data = load(files, "model"), fmtool.load_data("digits:test", limit=20)
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    attack = fmtool.attack(
        model, dataclasses.replace(data, class_names=words), attack="LinfFastGradientAttack", epsilon=0.3
    )
    masks = fmtool.fit_masks(model, attack, for_="essential", **FEW)
    assert attack.header["class_names"] == masks.header["class_names"] == list(words)
    nameless = fmtool.attack(
        model, dataclasses.replace(data, class_names=()), attack="LinfFastGradientAttack", epsilon=0.3
    )
    assert nameless.header["class_names"] == model.header["class_names"]
