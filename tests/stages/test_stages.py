"""Stages: which rows they take, what they refuse, and the defence against a loop written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from half_spectrum import filter_images
from torch import nn

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.errors import ArtifactError, FmtoolWarning, MaskError
from fmtool.stages.prepare import ready_model


def load(files: Path, name: str) -> Artifact:
    """One of the shared files."""
    return fmtool.read(str(files / f"{name}.safetensors"))


def changed(artifact: Artifact, **tensors: torch.Tensor) -> Artifact:
    """The same artifact with other tensors."""
    return dataclasses.replace(artifact, tensors={**artifact.tensors, **tensors})


FEW = {"lambda_": 0.1, "min_steps": 5, "max_steps": 8}


def test_essential_masks_take_every_image_right_before_and_keep_its_label(files: Path) -> None:
    """Whatever became of the attack."""
    attack = load(files, "fmn")
    status = attack["status"].clone()
    status[:4] = torch.tensor([WRONG_BEFORE, FAILED, OK, WRONG_BEFORE])
    masks = fmtool.fit_masks(load(files, "model"), changed(attack, status=status), for_="essential", **FEW)
    rows = status != WRONG_BEFORE
    for name in ("key", "index", "labels"):
        assert torch.equal(masks[name], attack[name][rows])
    assert torch.equal(masks["targets"], attack["labels"][rows])


def test_adversarial_masks_take_successful_attacks_alone(files: Path) -> None:
    attack = load(files, "fmn")
    status = attack["status"].clone()
    status[:4] = torch.tensor([WRONG_BEFORE, FAILED, OK, FAILED])
    masks = fmtool.fit_masks(load(files, "model"), changed(attack, status=status), for_="adversarial", **FEW)
    rows = status == OK
    assert torch.equal(masks["index"], attack["index"][rows])
    assert torch.equal(masks["targets"], attack["adversarial_predictions"][rows])
    assert bool((masks["targets"] != masks["labels"]).all())


def test_essential_masks_of_data_are_those_of_the_attacks_clean_images(files: Path) -> None:
    """So that one file serves all attacks."""
    model = load(files, "model")
    of_data = fmtool.fit_masks(model, fmtool.load_data("digits:test", limit=60), for_="essential", **FEW)
    of_attack = fmtool.fit_masks(model, load(files, "fmn"), for_="essential", **FEW)
    for name in of_data.tensors:
        assert torch.equal(of_data[name], of_attack[name]), name


def test_nothing_left_is_an_error(files: Path) -> None:
    model, attack = load(files, "model"), load(files, "fmn")
    none_worked = changed(attack, status=torch.full_like(attack["status"], FAILED))
    with pytest.raises(MaskError, match="no image is left for adversarial masks"):
        fmtool.fit_masks(model, none_worked, for_="adversarial", **FEW)
    none_right = changed(attack, status=torch.full_like(attack["status"], WRONG_BEFORE))
    with pytest.raises(MaskError, match="no image is left for essential masks"):
        fmtool.fit_masks(model, none_right, for_="essential", **FEW)
    with pytest.raises(MaskError, match="image is left"):
        fmtool.class_masks(model, none_right, robust=True)


def test_few_preserved_masks_warn(files: Path) -> None:
    with pytest.warns(FmtoolWarning, match="lambda 100 may be too high"):
        fmtool.fit_masks(
            load(files, "model"), load(files, "fmn"), for_="essential", lambda_=100, min_steps=150, max_steps=160
        )


def test_robust_class_masks_use_what_was_turned_to_the_class(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the adversarial images that are predicted as the class, with their true labels; then its clean ones."""
    from fmtool.masks import class_fitting

    seen: list[class_fitting.Part] = []
    fit = class_fitting.fit_class_masks

    def spy(classifier: nn.Module, parts: list[class_fitting.Part], *rest: Any, **more: Any) -> Any:
        seen.extend(parts)
        return fit(classifier, parts, *rest, **more)

    monkeypatch.setattr(class_fitting, "fit_class_masks", spy)
    attack = load(files, "fmn")
    status = attack["status"].clone()
    status[:6] = torch.tensor([WRONG_BEFORE, FAILED, OK, FAILED, OK, WRONG_BEFORE])
    fmtool.class_masks(load(files, "model"), changed(attack, status=status), robust=True, min_steps=5, max_steps=6)
    turned, clean = seen
    assert torch.equal(turned.images, attack["adversarial"][status == OK])
    assert torch.equal(turned.targets, attack["labels"][status == OK])
    assert torch.equal(turned.owners, attack["adversarial_predictions"][status == OK])
    assert torch.equal(clean.images, attack["images"][status != WRONG_BEFORE])
    assert torch.equal(clean.targets, attack["labels"][status != WRONG_BEFORE])
    assert torch.equal(clean.owners, clean.targets)


def test_a_class_without_images_gets_no_mask_and_passes_unfiltered(files: Path) -> None:
    model, data = load(files, "model"), fmtool.load_data("digits:train", limit=60)
    keep = data.labels != 3
    fewer = dataclasses.replace(
        data, images=data.images[keep], labels=data.labels[keep], index=data.index[keep], key=data.key[keep]
    )
    with pytest.warns(FmtoolWarning, match="no image for the masks of 3"):
        masks = fmtool.class_masks(model, fewer, min_steps=5, max_steps=6)
    assert masks["classes"].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    attack = load(files, "fmn")
    found = fmtool.defend(model, [attack], [masks])
    threes = attack["clean_predictions"] == 3
    assert torch.equal(found["predictions"][0, 1][threes], attack["clean_predictions"][threes])


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


def test_adaptive_attacks_alone_make_a_table(files: Path) -> None:
    """The clean images and who is right before come from the model itself."""
    model, attack, robust = load(files, "model"), load(files, "fmn"), load(files, "robust")
    found = fmtool.defend(model, [adaptive_file(files, "robust")], [robust])
    assert found.header["rows"] == ["clean", "adaptive PGD"] and found.header["worst"] is None
    assert torch.equal(found["predictions"][0, 0], attack["clean_predictions"])


def test_two_adaptive_attacks_on_the_same_masks_have_two_rows(files: Path) -> None:
    model, robust = load(files, "model"), load(files, "robust")
    two = [adaptive_file(files, "robust"), adaptive_file(files, "robust", seed=1)]
    assert fmtool.defend(model, two, [robust]).header["rows"] == ["clean", "adaptive PGD", "adaptive PGD 2"]


def test_an_adaptive_attack_needs_its_masks(files: Path) -> None:
    with pytest.raises(ArtifactError, match=r"attacks the robust FMN class masks .* not among the class-masks files"):
        fmtool.defend(load(files, "model"), [adaptive_file(files, "robust")], [load(files, "plain")])


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


def test_rows_are_joined_by_image_never_by_place(files: Path) -> None:
    """Shuffled files of the same images give the same statistics and the same matrix."""
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    order = torch.randperm(len(essential["labels"]), generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(essential, tensors={name: tensor[order] for name, tensor in essential.tensors.items()})
    one = fmtool.correlate(adversarial, essential, permutations=5)
    two = fmtool.correlate(adversarial, mixed, permutations=5)
    assert [s["observed"] for s in one.header["statistics"]] == [s["observed"] for s in two.header["statistics"]]
    model, attack = load(files, "model"), load(files, "fmn")
    order = torch.randperm(len(attack["labels"]), generator=torch.Generator().manual_seed(1))
    mixed = dataclasses.replace(attack, tensors={name: tensor[order] for name, tensor in attack.tensors.items()})
    found = fmtool.defend(model, [attack, mixed], [load(files, "plain")])
    assert found.header["rows"] == ["clean", "fmn", "fmn 2"]
    assert found.header["matrix"][1] == found.header["matrix"][2]


def test_correlate_counts_what_it_leaves_out(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    preserved = essential["preserved"].clone()
    preserved[:5] = False
    both = (preserved & True).sum() - (~adversarial["preserved"][5:]).sum()
    found = fmtool.correlate(changed(essential, preserved=preserved), adversarial, permutations=3)
    assert found.header["n"] == int(both)
    assert found.header["dropped"]["not preserved on both sides"] == len(preserved) - int(both)


def test_correlating_a_set_with_itself_is_as_high_as_it_gets(files: Path) -> None:
    essential = load(files, "essential")
    found = fmtool.correlate(essential, essential, permutations=9, statistics=["cosine", "svcca"])
    for one in found.header["statistics"]:
        assert one["observed"] == pytest.approx(1, abs=1e-9)


def test_pooled_masks_correlate(files: Path) -> None:
    """--pool on masks of 9x9 images: 3x3 bins a channel."""
    essential = load(files, "essential")
    masks = torch.rand(len(essential["labels"]), 1, 9, 5)
    nine = dataclasses.replace(
        changed(essential, masks=masks, preserved=torch.ones_like(essential["preserved"])),
        header={**essential.header, "image_size": [9, 9]},
    )
    found = fmtool.correlate(nine, nine, pool=3, permutations=3, statistics=["cosine"])
    assert found.header["statistics"][0]["observed"] == pytest.approx(1)
    with pytest.raises(MaskError, match="odd number"):
        fmtool.correlate(nine, nine, pool=2)


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


def test_attacks_and_masks_do_not_depend_on_the_number_of_threads(
    files: Path, set_threads: Callable[[int], None]
) -> None:
    """Each batch has one thread, however many there are; the digests are of files made by 1, 2 and 3."""
    digests = set()
    model, data = load(files, "model"), fmtool.load_data("digits:test", limit=40)
    few = {"min_steps": 20, "max_steps": 30, "execution": fmtool.Execution(batch_size=8)}
    for threads in (1, 2, 3):
        set_threads(threads)
        attacked = fmtool.attack(model, data, attack="pgd", epsilon=0.2, execution=fmtool.Execution(batch_size=8))
        masks = fmtool.fit_masks(model, attacked, for_="adversarial", lambda_=0.1, **few)  # type: ignore[arg-type]
        robust = fmtool.class_masks(model, attacked, robust=True, **few)  # type: ignore[arg-type]
        digests.add((attacked.digest, masks.digest, robust.digest))
    assert len(digests) == 1
