"""Data and model belong together: classes by name, channels, shapes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from PIL import Image
from safetensors.torch import save_file

import fmtool
from fmtool.datasets.data import Data
from fmtool.errors import DataError, FmtoolWarning
from fmtool.models.model_files import Specification, specification
from fmtool.models.registry import ARCHITECTURES
from fmtool.stages.inputs import fitted_data

NAMES = ("cat", "dog", "owl", "yak")


def _data(class_names: tuple[str, ...], labels: list[int], channels: int = 3) -> Data:
    images = torch.randint(
        0, 256, (len(labels), channels, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rows = torch.arange(len(labels))
    return Data(images, torch.tensor(labels), rows, rows, class_names, "set", "whole", "0" * 64)


def _model(class_names: tuple[str, ...], channels: int = 3) -> Specification:
    return Specification("resnet8", len(class_names), (channels, 4, 4), class_names)


def test_the_same_names_in_another_order_are_matched() -> None:
    data = _data(("owl", "yak", "cat", "dog"), [0, 1, 2, 3, 0])
    with pytest.warns(
        FmtoolWarning, match="set: has its classes in a different order from the model: labels are matched by name"
    ):
        found = fitted_data(data, _model(NAMES))
    assert found.labels.tolist() == [2, 3, 0, 1, 2] and found.class_names == NAMES and found.digest == data.digest
    assert fitted_data(_data(NAMES, [3, 0]), _model(NAMES)).labels.tolist() == [3, 0]


def test_some_of_the_models_classes_are_matched_too() -> None:
    with pytest.warns(FmtoolWarning, match="set: has 2 of the model's 4 classes"):
        assert fitted_data(_data(("owl", "dog"), [0, 1]), _model(NAMES)).labels.tolist() == [2, 1]


def test_other_names_are_an_error_that_shows_three_of_each() -> None:
    data = _data(("a", "b", "c", "d"), [0, 1])
    with pytest.raises(
        DataError, match=r"set: its classes \(a, b, c, ...\) are not among the model's \(cat, dog, owl, ...\): to use"
    ):
        fitted_data(data, _model(NAMES))
    with pytest.raises(DataError, match=r"its classes \(bee\) are not among the model's"):
        fitted_data(_data(("cat", "dog", "owl", "bee"), [0, 1]), _model(NAMES))
    by_position = replace(data, classes_by_position=True)
    assert fitted_data(by_position, _model(NAMES)) is by_position
    with pytest.raises(DataError, match=r"set: has 3 classes, the model 4$"):
        fitted_data(replace(by_position, class_names=("a", "b", "c")), _model(NAMES))
    numbered = _model(("0", "1", "2", "3"))  # as an imported network's
    with pytest.raises(
        DataError, match="the model 4: import the model again with --keep-classes, or with --class-names"
    ):
        fitted_data(_data(("a", "b", "c"), [0, 1]), numbered)
    with pytest.raises(DataError, match=r"set: has 5 classes, the model 4$"):
        fitted_data(_data(("a", "b", "c", "d", "e"), [0, 1]), numbered)


def test_a_model_without_names_takes_labels_by_position_and_says_so() -> None:
    with pytest.warns(
        FmtoolWarning, match="set: the model calls its classes 0 to 3: labels are taken by position"
    ) as told:
        assert fitted_data(_data(NAMES, [3, 1]), _model(("0", "1", "2", "3"))).labels.tolist() == [3, 1]
    assert len(told) == 1
    with pytest.warns(FmtoolWarning, match="in a different order"):  # numbers are names where both have them
        assert fitted_data(_data(("0", "2", "1", "3"), [1, 2]), _model(("0", "1", "2", "3"))).labels.tolist() == [2, 1]


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_folders_numbered_by_value_are_told_of_a_model_from_elsewhere(suffix: str, tmp_path: Path) -> None:
    """ImageFolder sorts 10 before 2, and a model that doesn't name its classes can't tell; its names can."""
    names = [str(number) for number in range(11)]
    for name in names:
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (int(name), 0, 0)).save(tmp_path / "set" / name / "1.png")
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    data = fmtool.load_data(str(tmp_path / f"set{suffix}"))
    torch.save(ARCHITECTURES["resnet8"].build(3, 11).state_dict(), tmp_path / "w.pt")

    def labels(data: Data, **options: Any) -> list[int]:
        model = fmtool.import_model(
            "resnet8", **{"weights": str(tmp_path / "w.pt"), "input_shape": (3, 8, 8), **options}
        )
        found: list[int] = fitted_data(data, specification(model.header, "model"), model).labels.tolist()
        return found

    told = r"by value \(0, 1, 2, ...\), .* in the order of text \(0, 1, 10, ...\): .* with --class-names in that order"
    with pytest.warns(FmtoolWarning, match=told):
        assert labels(data) == list(range(11))
    with pytest.warns(FmtoolWarning, match="in a different order from the model: labels are matched by name"):
        assert labels(data, class_names=sorted(names)) == [0, 1, *range(3, 11), 2]
    labels(data, class_names=names)
    labels(replace(data, classes_by_position=True))


def test_folders_of_which_both_orders_are_the_same_need_no_line(tmp_path: Path) -> None:
    """Nor do those of a model that was made here, or of random weights."""
    few = replace(_data(tuple("0123"), [0, 1]), format="folders")
    many = replace(_data(tuple(map(str, range(11))), [0, 1]), format="folders")
    torch.save(ARCHITECTURES["resnet8"].build(3, 4).state_dict(), tmp_path / "w.pt")
    model = fmtool.import_model("resnet8", weights=str(tmp_path / "w.pt"), input_shape=(3, 4, 4))
    fresh = fmtool.import_model("resnet8", weights="none", input_shape=(3, 4, 4))
    trained = replace(model, history=[*model.history, {"command": "train-model", "options": {}, "inputs": [{}]}])
    for data, one in ((few, model), (many, fresh), (many, trained)):
        spec = Specification("resnet8", len(data.class_names), (3, 4, 4), data.class_names)
        assert fitted_data(data, spec, one) is data


def test_data_without_names_are_taken_by_position() -> None:
    assert fitted_data(_data((), [3, 1]), _model(NAMES)).labels.tolist() == [3, 1]
    with pytest.raises(DataError, match=r"set: labels go up to 4, but the model's 4 classes are numbered from 0$"):
        fitted_data(_data((), [4]), _model(NAMES))


@pytest.mark.parametrize("chosen", [{}, {"limit": 2}, {"rows": (0, 2)}])
def test_labels_from_1_are_refused_whatever_rows_are_chosen(chosen: dict[str, Any], tmp_path: Path) -> None:
    save_file({"images": torch.rand(4, 3, 4, 4), "labels": torch.arange(1, 5)}, tmp_path / "set.safetensors")
    data = fmtool.load_data(str(tmp_path / "set.safetensors"), **chosen)
    with pytest.raises(
        DataError,
        match=r"labels go up to 4, but the model's 4 classes are numbered from 0: do the labels start at 1\?$",
    ):
        fitted_data(data, _model(NAMES))


def test_labels_of_some_rows_are_those_rows_own(tmp_path: Path) -> None:
    """A model trained on some classes of the set, and labels that a caller has put right."""
    save_file({"images": torch.rand(6, 3, 4, 4), "labels": torch.arange(6)}, tmp_path / "set.safetensors")
    some = fmtool.load_data(str(tmp_path / "set.safetensors"), rows=(0, 4))
    assert fitted_data(some, _model(NAMES)).labels.tolist() == [0, 1, 2, 3]
    save_file({"images": torch.rand(4, 3, 4, 4), "labels": torch.arange(1, 5)}, tmp_path / "set.safetensors")
    from_1 = fmtool.load_data(str(tmp_path / "set.safetensors"))
    moved = replace(from_1, labels=from_1.labels - 1)
    assert fitted_data(moved, _model(NAMES)).labels.tolist() == [0, 1, 2, 3]


def test_a_name_of_several_classes_matches_none() -> None:
    """ImageNet has two of them called crane, and two called maillot."""
    for data, model in ((_data(("crane", "crane"), [0, 1]), NAMES), (_data(("yak", "crane"), [0]), ("crane",) * 2)):
        with pytest.raises(DataError, match=r"several classes are called crane.*pass --classes-by-position$"):
            fitted_data(data, _model(("crane", "yak", *model)))
    assert fitted_data(_data(("crane", "crane"), [0, 1]), _model(("crane", "crane"))).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("have", "wanted", "said"), [(1, 3, "grey is repeated in its three channels"), (3, 1, "it gets their luma")]
)
def test_channels_follow_the_model(have: int, wanted: int, said: str) -> None:
    data = _data(NAMES, [0, 1], have)
    with pytest.warns(FmtoolWarning, match=f"set: images of {have} channels for a model of {wanted}: {said}"):
        found = fitted_data(data, _model(NAMES, wanted))
    assert found.images.shape == (2, wanted, 4, 4) and torch.equal(found.key, data.key)
    with pytest.raises(DataError, match="set: images are 2x4x4, the model takes 3x4x4"):
        fitted_data(_data(NAMES, [0], 2), _model(NAMES))


@pytest.mark.slow
def test_a_grey_folder_in_another_order_scores_as_the_array_it_was_made_of(
    files: Path, run: Run, tmp_path: Path
) -> None:
    """Through the command line: classes by other folders' order, luma of grey pictures, the options in the history."""
    digits = fmtool.load_data("digits:test", limit=40)
    pixels = (digits.images * 255).round().to(torch.uint8)
    order = torch.tensor([3, 0, 1, 2, 4, 5, 6, 7, 8, 9])  # of the same classes; by position most images stay right
    names = [str(label) for label in order.tolist()]
    save_file(
        {"images": pixels, "labels": digits.labels},
        tmp_path / "whole.safetensors",
        {"class_names": json.dumps(list("0123456789"))},
    )
    shifted = order.argsort()[digits.labels]
    save_file({"images": pixels, "labels": shifted}, tmp_path / "other.safetensors", {"class_names": json.dumps(names)})
    for row, image in enumerate(pixels):
        path = tmp_path / "folder" / str(int(digits.labels[row])) / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    line = ["attack", files / "model.safetensors", "--attack", "FGSM", "--epsilon", "0.1", "--format", "json", "-q"]
    accuracies = []
    for source in ("whole.safetensors", "other.safetensors", "folder"):
        outcome = run(*line, "--data", tmp_path / source, "-o", tmp_path / "attack")
        assert outcome.code == 0, outcome.err
        accuracies.append(json.loads(outcome.out)["rows"][0]["clean accuracy %"])
    assert accuracies[0] == accuracies[1] == accuracies[2] > 85
    outcome = run(
        *line,
        "--data",
        tmp_path / "other.safetensors",
        "--classes-by-position",
        "--rows",
        "0:30",
        "-o",
        tmp_path / "attack",
    )
    assert outcome.code == 0 and json.loads(outcome.out)["rows"][0]["clean accuracy %"] < accuracies[0] - 20
    history = run("inspect", "--history", tmp_path / "attack").out
    assert "--classes-by-position" in history and "--rows 0:30" in history
    assert run("verify", tmp_path / "attack", tmp_path / "other.safetensors", files / "model.safetensors").code == 0


def test_training_on_data_without_names_calls_classes_by_number(run: Run, tmp_path: Path) -> None:
    digits = fmtool.load_data("digits:test", limit=40)
    save_file({"images": digits.images, "labels": digits.labels}, tmp_path / "d.safetensors")
    outcome = run(
        "train-model",
        "--data",
        tmp_path / "d.safetensors",
        "--architecture",
        "resnet8",
        "--epochs",
        1,
        "-o",
        tmp_path / "m",
    )
    assert outcome.code == 0 and "d.safetensors: has no class names: its classes are called 0 to 9" in outcome.err
    assert fmtool.read(str(tmp_path / "m")).header["class_names"] == list("0123456789")
