"""The defence's table against a loop written out, and the rows of adaptive attacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import factory
from half_spectrum import filter_images
from small_files import changed, load

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.attacks.registry import WRONG_BEFORE
from fmtool.errors import ArtifactError, FmtoolWarning
from fmtool.models.classifier import predict
from fmtool.stages import defend as stage
from fmtool.stages.defend import UNCLASSIFIED
from fmtool.stages.prepare import ready_model


@pytest.mark.slow
def test_the_matrix_against_a_loop_over_images(files: Path) -> None:
    """Predict, pick the predicted class's mask, filter, predict again: one image at a time, counted by hand."""
    model, attack = load(files, "model"), load(files, "fmn")
    sets = [load(files, "robust"), load(files, "plain")]
    found = fmtool.defend(model, [attack], sets)
    run = ready_model(model, fmtool.Execution(device="cpu"))

    def predict(image: torch.Tensor) -> int:
        """Alone, at the shape of batch that the attack was judged at: FMN's images flip under another rounding."""
        return int(run.classifier(image.expand(run.batch, 1, 8, 8)).argmax(1)[0])

    assert found.header["rows"] == ["clean", "fmn"]
    assert found.header["columns"] == ["none", "robust FMN", "plain"]
    n = len(attack["labels"])
    for row, images in enumerate((attack["images"], attack["adversarial"])):
        for column in range(3):
            right = right_before = 0
            for image, label, clean in zip(images, attack["labels"], attack["clean_predictions"], strict=True):
                prediction = predict(image)
                if column:
                    masks = sets[column - 1]
                    place = masks["classes"].tolist().index(prediction)
                    filtered = filter_images(image[None], masks["masks"][place][None])
                    prediction = predict(filtered[0])
                right += prediction == int(label)
                right_before += prediction == int(label) and int(clean) == int(label)
            cell = found.header["matrix"][row][column]
            assert cell["accuracy"] == pytest.approx(right / n)
            assert cell["accuracy_right_before"] == pytest.approx(right_before / n)


def adaptive_file(files: Path, masks: str, epsilon: float = 0.1, **more: int) -> Artifact:
    """A short attack on the two-pass classifier with the masks of this name."""
    data, defense = fmtool.load_data("digits:test", limit=60), load(files, masks)
    few: dict[str, Any] = {"epsilon": epsilon, "restarts": 1, "attack_options": {"steps": 2}, **more}
    return fmtool.attack(load(files, "model"), data, defense=defense, **few)


@pytest.mark.slow
def test_adaptive_attacks_stand_in_the_columns_of_their_masks(files: Path) -> None:
    """One row a strength, whatever the order of files; no cell where the attack was made against something else."""
    model, attack, robust, plain = (load(files, name) for name in ("model", "fmn", "robust", "plain"))
    strong = adaptive_file(files, "robust", 0.2)
    adapted = [adaptive_file(files, name) for name in ("robust", "plain")]
    found = fmtool.defend(model, [adapted[0], strong, attack, adapted[1]], [robust, plain])
    assert found.header["rows"] == ["clean", "fmn", "adaptive PGD epsilon 0.1", "adaptive PGD epsilon 0.2"]
    assert found.header["adaptive"]
    matrix, predictions = found.header["matrix"], found["predictions"]
    assert matrix[2][0] is matrix[3][0] is matrix[3][2] is None
    for row, column, file in ((2, 1, adapted[0]), (2, 2, adapted[1]), (3, 1, strong)):
        assert torch.equal(predictions[row, column], file["adversarial_predictions"])
        right = (file["adversarial_predictions"] == file["labels"]).double().mean()
        assert matrix[row][column]["accuracy"] == pytest.approx(float(right))
        assert matrix[row][column]["adaptive"]
    assert predictions.shape == (4, 3, 60)
    assert bool((predictions[2, 0] == -1).all()) and bool((predictions[3, [0, 2]] == -1).all())
    assert bool((predictions[:2] >= 0).all()) and not any(cell["adaptive"] for row in matrix[:2] for cell in row)
    alone = fmtool.defend(model, [attack], [robust, plain])
    assert matrix[:2] == alone.header["matrix"] and not alone.header["adaptive"]


@pytest.mark.slow
def test_adaptive_attacks_alone_make_a_table(files: Path) -> None:
    """The clean images and who is right before come from the model itself."""
    model, attack, robust = load(files, "model"), load(files, "fmn"), load(files, "robust")
    found = fmtool.defend(model, [adaptive_file(files, "robust")], [robust])
    assert found.header["rows"] == ["clean", "adaptive PGD"] and found.header["worst"] is None
    assert torch.equal(found["predictions"][0, 0], attack["clean_predictions"])


@pytest.mark.slow
def test_two_adaptive_attacks_on_the_same_masks_have_two_rows(files: Path) -> None:
    model, robust = load(files, "model"), load(files, "robust")
    two = [adaptive_file(files, "robust"), adaptive_file(files, "robust", seed=1)]
    assert fmtool.defend(model, two, [robust]).header["rows"] == ["clean", "adaptive PGD", "adaptive PGD 2"]


@pytest.mark.slow
def test_adaptive_attacks_of_other_strength_have_another_row(files: Path) -> None:
    model, robust, plain = (load(files, name) for name in ("model", "robust", "plain"))
    weak, strong = (adaptive_file(files, name) for name in ("robust", "plain"))
    options = {**strong.header["options"], "steps": 999}
    strong = dataclasses.replace(strong, header={**strong.header, "options": options})
    found = fmtool.defend(model, [weak, strong], [robust, plain])
    assert found.header["rows"] == ["clean", "adaptive PGD", "adaptive PGD 2"]


@pytest.mark.slow
def test_classes_without_a_mask_are_counted(files: Path) -> None:
    model, fmn, robust = (load(files, name) for name in ("model", "fmn", "robust"))
    some = {name: values[:7] if len(values) == 10 else values for name, values in robust.tensors.items()}
    told = "has masks of 7 of 10 classes: images predicted as another class pass unfiltered"
    with pytest.warns(FmtoolWarning, match=told):
        fmtool.defend(model, [fmn], [dataclasses.replace(robust, tensors=some)])


@pytest.mark.slow
def test_an_adaptive_attack_needs_its_masks(files: Path) -> None:
    with pytest.raises(ArtifactError, match=r"attacks the robust FMN class masks .* not among the class-masks files"):
        fmtool.defend(load(files, "model"), [adaptive_file(files, "robust")], [load(files, "plain")])


@pytest.mark.slow
def test_the_worst_case_is_counted_image_by_image(files: Path) -> None:
    """Right when clean and under every attack that knows nothing of the masks; the drop is against no mask at all."""
    model, masks = load(files, "model"), [load(files, "robust"), load(files, "plain")]
    data = fmtool.load_data("digits:test", limit=60)
    weak = fmtool.attack(model, data, attack="pgd", epsilon=0.1, attack_options={"steps": 4})
    found = fmtool.defend(model, [load(files, "fmn"), weak, adaptive_file(files, "robust")], masks)
    labels, right_before = found["labels"], found["predictions"][0, 0] == found["labels"]
    assert len(found.header["worst"]) == len(found.header["clean_drop"]) == 3
    for column, cell in enumerate(found.header["worst"]):
        held = [bool((found["predictions"][:3, column, i] == labels[i]).all()) for i in range(60)]
        assert cell["accuracy"] == pytest.approx(sum(held) / 60) and not cell["adaptive"]
        both = [one and bool(before) for one, before in zip(held, right_before, strict=True)]
        assert cell["accuracy_right_before"] == pytest.approx(sum(both) / 60)
        lowest = min(row[column]["accuracy"] for row in found.header["matrix"][:3])
        assert cell["accuracy"] <= lowest
    clean = [cell["accuracy"] for cell in found.header["matrix"][0]]
    assert found.header["clean_drop"] == pytest.approx([clean[0] - one for one in clean])
    assert fmtool.defend(model, [weak], masks).header["worst"] is None


def test_images_that_one_attack_file_lacks_are_counted_once(files: Path) -> None:
    """Whichever file lacks them."""
    model, masks = load(files, "model"), [load(files, "plain")]
    halves = [
        fmtool.attack(
            model, fmtool.load_data("digits:test", rows=rows), attack="pgd", epsilon=0.3, attack_options={"steps": 1}
        )
        for rows in ((0, 30), (20, 45))
    ]
    with pytest.warns(FmtoolWarning, match="^35 images are not in every attack file and are left out$"):
        assert fmtool.defend(model, halves, masks).header["n"] == 10


def test_images_without_a_class_are_wrong_in_their_cell(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network standardises each image, and the masks of some classes, or of all, leave nothing of an image."""
    forward = "x = images.flatten(1)\nreturn self.linear((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))"
    (tmp_path / "of_one_scale.py").write_text(factory(forward))
    monkeypatch.syspath_prepend(tmp_path)
    data, robust = fmtool.load_data("digits:test", limit=40), load(files, "robust")
    model = fmtool.import_model("of_one_scale:make", input_shape=(1, 8, 8), class_names=data.class_names)
    how = fmtool.Execution(device="cpu", factory="of_one_scale:make", allow_other_model=True)
    own = dataclasses.replace(how, allow_other_model=False)
    ready = ready_model(model, own)
    data = dataclasses.replace(data, labels=predict(ready.classifier, data.images, ready.batch, ready.device))
    emptied = sorted(set(data.labels.tolist()))[::2]
    masks = torch.ones_like(robust["masks"])
    masks[[robust["classes"].tolist().index(k) for k in emptied]] = 0
    some, none = changed(robust, masks=masks), changed(robust, masks=torch.zeros_like(masks))
    lost = torch.isin(data.labels, torch.tensor(emptied))
    attack = fmtool.attack(model, data, attack="LinfFastGradientAttack", epsilon=0.01, execution=own)
    told = r"^\d+ of 240 images in the table's cells give logits that are not finite: they count as wrong there$"
    with pytest.warns(FmtoolWarning, match=told):
        found = fmtool.defend(model, [attack], [some, none], execution=how)
    predictions, (clean, _) = found["predictions"], found.header["matrix"]
    assert torch.equal(predictions[0, 1] == UNCLASSIFIED, lost) and (predictions[:, 2] == UNCLASSIFIED).all()
    assert [cell["accuracy"] for cell in clean] == pytest.approx([1, float((~lost).double().mean()), 0])
    with pytest.warns(FmtoolWarning, match=f"^{int(lost.sum())} of 40 clean images .* wrong before the attack$"):
        adaptive = fmtool.attack(
            model, data, defense=some, epsilon=0.01, restarts=1, attack_options={"steps": 2}, execution=how
        )
    assert torch.equal(adaptive["status"] == WRONG_BEFORE, lost)
    with pytest.warns(FmtoolWarning, match="table's cells"):
        found = fmtool.defend(model, [adaptive], [some], execution=how)
    assert found.header["matrix"][1][0] is None and found.header["matrix"][1][1]["adaptive"]


def test_masks_fitted_to_the_images_that_they_defend_are_told(files: Path) -> None:
    model, attack, robust, plain = (load(files, name) for name in ("model", "fmn", "robust", "plain"))
    with pytest.warns(FmtoolWarning) as told:
        fmtool.defend(model, [attack], [robust, plain])
    assert [str(one.message) for one in told] == [
        f"{robust}: seems to be fitted to images of the same data as {attack}: it may do worse on unseen ones"
    ]


def test_rows_of_other_attacks_of_one_title_are_told_apart(files: Path) -> None:
    model, attack, plain = (load(files, name) for name in ("model", "fmn", "plain"))

    def called(name: str, **options: Any) -> fmtool.Artifact:
        return dataclasses.replace(
            attack, header={**attack.header, "attack": name, "options": options}, stored_digest=name
        )

    strengths = [called("pgd", epsilon=0.1), called("pgd", epsilon=0.3), called("pgd")]
    found = fmtool.defend(model, [attack, called("FMN"), *strengths], [plain])
    assert found.header["rows"] == ["clean", "fmn", "FMN 2", "PGD epsilon 0.1", "PGD epsilon 0.3", "pgd"]


def test_strengths_are_told_apart_whether_attacks_are_adaptive_or_not(files: Path) -> None:
    attack = load(files, "fmn")

    def called(epsilon: float, **more: Any) -> fmtool.Artifact:
        return dataclasses.replace(
            attack, header={**attack.header, "attack": "pgd", "options": {"epsilon": epsilon}, **more}
        )

    strong, weak = called(0.3), called(0.02, defense={"digest": ""})
    assert [stage._name(one, [strong, weak]) for one in (strong, weak)] == ["PGD epsilon 0.3", "PGD epsilon 0.02"]
    assert stage._name(strong, [strong, called(0.3, defense={"digest": ""})]) == "pgd"


def test_columns_of_one_title_say_what_differs(files: Path) -> None:
    robust, plain = load(files, "robust"), load(files, "plain")

    def made(lambda_: float, epsilon: float) -> fmtool.Artifact:
        attack = {"command": "attack", "options": {"--epsilon": epsilon}, "inputs": []}
        return dataclasses.replace(robust, header={**robust.header, "lambda": lambda_}, history=[attack])

    for files_given, columns in (
        ([robust, plain], ["robust FMN", "plain"]),
        ([made(0.1, 0.2), made(0.01, 0.2)], ["robust FMN, lambda 0.1", "robust FMN, lambda 0.01"]),
        ([made(0.1, 0.2), made(0.1, 0.3)], ["robust FMN, epsilon 0.2", "robust FMN, epsilon 0.3"]),
        ([robust, robust], ["robust FMN", "robust FMN 2"]),
    ):
        assert stage._columns(files_given) == ["none", *columns]


def test_images_that_an_attack_on_another_model_left_alone_are_counted(files: Path) -> None:
    model, attack, plain = (load(files, name) for name in ("model", "fmn", "plain"))
    other = changed(model, **{"linear.bias": model["linear.bias"] + 1})
    alone, n = int((attack["status"] == WRONG_BEFORE).sum()), len(attack["status"])
    with pytest.warns(FmtoolWarning) as told:
        fmtool.defend(other, [attack, changed(attack)], [plain], execution=fmtool.Execution(allow_other_model=True))
    assert sum(f": {alone} of {n} images were not attacked, as the model that" in str(one.message) for one in told) == 2
