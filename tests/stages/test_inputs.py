"""Files that belong together: their model, and the names of their classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from small_files import FEW, changed, load

import fmtool
from fmtool.errors import ArtifactError, FmtoolWarning
from fmtool.models.model_files import specification
from fmtool.stages.inputs import check_attack, check_same_model, fitted_data


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


def test_classes_of_another_model_are_not_taken_for_those_of_the_same_number(files: Path) -> None:
    attack, masks = load(files, "fmn"), load(files, "essential")
    names = load(files, "model").header["class_names"]

    def called(*names: str) -> fmtool.Artifact:
        model = load(files, "model")
        return dataclasses.replace(model, header={**model.header, "class_names": list(names)}, stored_digest="other")

    for file in (attack, masks):
        assert not check_same_model(file, called(*names), True)
        with pytest.raises(
            ArtifactError, match="in a different order, so its labels number other classes: make it again"
        ):
            check_same_model(file, called(*reversed(names)), True)
        with pytest.raises(ArtifactError, match="has 10 classes, the model 3"):
            check_same_model(file, called("0", "1", "2"), True)
        # how the data's classes were taken for the training of its model says nothing of this file's
        trained = {"command": "train-model", "options": {}, "inputs": [{"kind": "data", "classes-by-position": True}]}
        after = dataclasses.replace(file, history=[trained, *file.history])
        with pytest.raises(ArtifactError, match="in a different order"):
            check_same_model(after, called(*reversed(names)), True)
        with pytest.warns(
            FmtoolWarning, match=r"classes \(0, 1, 2, \.\.\.\) are not the model's \(ten, 1, 2, .*by position"
        ):
            check_same_model(file, called("ten", *names[1:]), True)


def test_status_of_another_model_is_told_where_it_chooses_images(files: Path, recwarn: pytest.WarningsRecorder) -> None:
    model, attack = load(files, "model"), load(files, "fmn")
    spec, other = specification(model.header, "model"), dataclasses.replace(model, stored_digest="other")
    check_attack(attack, model, spec, False, chooses=True)
    check_attack(attack, other, spec, True)
    assert not recwarn.list
    told = "its images are chosen by the predictions of the model that the file was made with, not of"
    for stage in (fmtool.fit_masks, fmtool.class_masks):
        with pytest.warns(FmtoolWarning, match=told):
            stage(other, attack, **FEW, execution=fmtool.Execution(allow_other_model=True))  # type: ignore[operator]


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


def test_accents_are_the_same_however_they_are_written(files: Path) -> None:
    """As one character, or as a letter and an accent, which some systems make of names of folders."""
    model, data = load(files, "model"), fmtool.load_data("digits:test", limit=20)
    composed = ("caf\u00e9", "th\u00e9", *"23456789")
    spec = dataclasses.replace(specification(model.header, "m"), class_names=composed)
    apart = ("the\u0301", "cafe\u0301", *"23456789")
    with pytest.warns(FmtoolWarning, match="in a different order from the model: labels are matched by name"):
        found = fitted_data(dataclasses.replace(data, class_names=apart), spec)
    assert found.class_names == composed
    same = dataclasses.replace(data, class_names=("cafe\u0301", "the\u0301", *"23456789"))
    assert fitted_data(same, spec).class_names == composed
    assert (found.labels == 0).tolist() == (data.labels == 1).tolist()


def test_labels_without_names_are_said_to_be_taken_by_position(files: Path, recwarn: pytest.WarningsRecorder) -> None:
    """They may number the classes in another order than a model whose classes have names."""
    spec = specification(load(files, "model").header, "model")
    data = dataclasses.replace(fmtool.load_data("digits:test", limit=20), class_names=())
    fitted_data(data, spec)
    named = dataclasses.replace(spec, class_names=("zero", *spec.class_names[1:]))
    fitted_data(dataclasses.replace(data, classes_by_position=True), named)
    assert not recwarn.list
    with pytest.warns(
        FmtoolWarning, match=r"digits: names no classes: .* taken as the model's outputs zero, 1, 2, \.\.\."
    ):
        fitted_data(data, named)
