"""Masks against controls: the stage against loops written out, and what doesn't belong together."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from half_spectrum import filter_images, to_full
from small_files import changed, load
from torch import Tensor

import fmtool
from fmtool.errors import ArtifactError, FmtoolWarning, MaskError
from fmtool.stages.prepare import ready_model


def numbers(found: fmtool.stages.check_masks.MaskCheck) -> list[tuple[str, int, float]]:  # type: ignore[name-defined]
    return [(one.name, one.n, one.preserved.value) for one in found.controls]


@pytest.mark.slow
def test_masks_as_they_are_and_no_filter(files: Path) -> None:
    """Images as they are keep their class; fitted masks as often as fit-masks says of the stored ones."""
    model, attack = load(files, "model"), load(files, "fmn")
    for name in ("essential", "adversarial"):
        masks = load(files, name)
        found = fmtool.check_masks(model, attack, masks, draws=2)
        plain, fitted, *controls = found.controls
        assert found.about == name and found.attack == "fmn" and found.n == len(masks["labels"])
        assert plain.name == "no filter" and plain.preserved.value == 1 and plain.p is None
        assert fitted.preserved.value == pytest.approx(float(masks["preserved_stored"].double().mean()))
        assert fitted.difference is None and fitted.p is None
        assert [one.name for one in controls] == [
            "random places",
            "lowest frequencies",
            "largest magnitudes of the image",
            "places of another image's mask, same class",
            "places of another image's mask, other class",
            "mask of another class as it is, into that class",
        ]
        for one in controls:
            assert one.difference is not None and one.p is not None and 0.001 <= one.p <= 1
            if one.n == found.n:
                assert one.difference.value == pytest.approx(fitted.preserved.value - one.preserved.value)


def by_magnitude(image: Tensor, mask: Tensor) -> Tensor:
    """One image filtered by its mask's values on its largest magnitudes, written out over the full spectrum (1, 8, 8)."""
    spectrum, values, made = torch.fft.fft2(image)[0], to_full(mask, 8)[0], torch.zeros(8, 8)
    for count in (1, 2):
        seen = [{(r, c), (-r % 8, -c % 8)} for r in range(8) for c in range(8)]
        some = sorted({min(orbit) for orbit in seen if len(orbit) == count}, key=lambda k: -float(spectrum[k].abs()))
        for (r, c), value in zip(some, sorted((float(values[k]) for k in some), reverse=True), strict=True):
            made[r, c] = made[-r % 8, -c % 8] = value
    return torch.fft.ifft2(made * spectrum).real[None]


@pytest.mark.slow
def test_a_control_against_a_loop_over_images(files: Path) -> None:
    """Values moved to the image's largest magnitudes, one image and one orbit of the full spectrum at a time."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    run = ready_model(model, fmtool.Execution(device="cpu"))
    place = {index: row for row, index in enumerate(attack["index"].tolist())}
    kept = []
    for row, index in enumerate(masks["index"].tolist()):
        image = by_magnitude(attack["images"][place[index]], masks["masks"][row])
        kept.append(int(run.classifier(image[None]).argmax(1)) == int(masks["targets"][row]))
    (found,) = (
        one for one in fmtool.check_masks(model, attack, masks, draws=1).controls if one.name.startswith("largest")
    )
    assert 0 < sum(kept) < len(kept) and found.preserved.value == pytest.approx(sum(kept) / len(kept))


def test_a_mask_of_one_value_is_the_same_wherever_it_is_put(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    level = changed(masks, masks=torch.full_like(masks["masks"], 0.5))
    found = fmtool.check_masks(model, attack, level, draws=2)
    alike = found.controls[1:-1]  # the last has another target
    assert len({one.preserved.value for one in alike if one.n == found.n}) == 1


@pytest.mark.slow
def test_neither_batch_size_nor_the_order_of_rows_changes_anything(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    order = torch.randperm(len(masks["labels"]), generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(masks, tensors={name: tensor[order] for name, tensor in masks.tensors.items()})
    whole = fmtool.check_masks(model, attack, masks, draws=3)
    assert fmtool.check_masks(model, attack, masks, draws=3) == whole
    expected = numbers(whole)
    for other in (
        fmtool.check_masks(model, attack, masks, draws=3, execution=fmtool.Execution(batch_size=8)),
        fmtool.check_masks(model, attack, mixed, draws=3),
    ):
        for (name, n, value), (other_name, other_n, other_value) in zip(expected, numbers(other), strict=True):
            assert (name, n) == (other_name, other_n) and value == pytest.approx(other_value, abs=1e-12), name
    assert numbers(fmtool.check_masks(model, attack, masks, draws=3, seed=1)) != expected


def test_images_without_such_another_are_left_out_of_that_row(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    zeros, ones = ((masks["targets"] == target).nonzero().flatten() for target in (0, 1))
    rows = torch.cat([zeros, ones[:1]])
    few = dataclasses.replace(masks, tensors={name: tensor[rows] for name, tensor in masks.tensors.items()})
    found = fmtool.check_masks(model, attack, few, draws=1)
    assert [one.n for one in found.controls][-3:] == [len(zeros), len(zeros) + 1, len(zeros) + 1]
    alone = dataclasses.replace(masks, tensors={name: tensor[ones[:1]] for name, tensor in masks.tensors.items()})
    found = fmtool.check_masks(model, attack, alone, draws=1)
    for one in found.controls[-3:]:
        assert one.n == 0 and math.isnan(one.preserved.value) and one.p is not None and math.isnan(one.p)


@pytest.mark.slow
def test_class_masks_filter_every_clean_image_by_its_true_classs(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "plain"))
    found = fmtool.check_masks(model, attack, masks, draws=1)
    run = ready_model(model, fmtool.Execution(device="cpu"))
    owner = [masks["classes"].tolist().index(label) for label in attack["labels"].tolist()]
    right = run.classifier(filter_images(attack["images"], masks["masks"][owner])).argmax(1) == attack["labels"]
    plain, fitted, *rest = found.controls
    assert found.about == "class" and found.attack is None and found.n == len(attack["labels"])
    assert plain.preserved.value == pytest.approx(
        float((attack["clean_predictions"] == attack["labels"]).double().mean())
    )
    assert fitted.preserved.value == pytest.approx(float(right.double().mean()))
    assert [one.name for one in rest[-2:]] == [
        "mask of another class as it is",
        "mask of another class as it is, into that class",
    ]
    assert rest[-2].n == found.n and len(rest) == 5
    two = {name: tensor[:2] for name, tensor in masks.tensors.items()}
    with pytest.warns(FmtoolWarning, match="of classes without a mask"):
        found = fmtool.check_masks(model, attack, dataclasses.replace(masks, tensors=two), draws=1)
    some = attack["labels"] < 2
    other = masks["masks"][1 - attack["labels"][some]]
    ends = run.classifier(filter_images(attack["images"][some], other)).argmax(1)  # of two masks, the other one
    assert found.n == int(some.sum())
    labels, new = attack["labels"][some], attack["clean_predictions"][some] != 1 - attack["labels"][some]
    kept, into = found.controls[-2:]
    assert kept.preserved.value == pytest.approx(float((ends == labels).double().mean()))
    assert into.n == int(new.sum()) and into.preserved.value == pytest.approx(
        float((ends != labels)[new & (ends < 2)].sum() / new.sum())
    )


def test_images_that_are_taken_for_the_other_class_anyway_are_not_turned_into_it(files: Path) -> None:
    """Masks of ones change nothing, whatever the network takes images for."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "plain"))
    wrong = (attack["labels"] + 1) % 10
    mistaken = dataclasses.replace(
        attack, tensors={**attack.tensors, "labels": wrong, "clean_predictions": attack["labels"]}
    )
    two = torch.tensor([0, 1])
    ones = {
        **{name: tensor[two] for name, tensor in masks.tensors.items()},
        "masks": torch.ones_like(masks["masks"][two]),
    }
    with pytest.warns(FmtoolWarning, match="of classes without a mask"):
        found = fmtool.check_masks(model, mistaken, dataclasses.replace(masks, tensors=ones), draws=1)
    into = found.controls[-1]
    assert into.n == int((wrong == 0).sum()) < found.n and into.preserved.value < 0.1


def test_adversarial_images_that_fall_back_to_their_label_are_not_turned_into_it(files: Path) -> None:
    """Of two masks, the other one's class is the true label of the first image."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "adversarial"))
    labels, targets = masks["labels"].tolist(), masks["targets"].tolist()
    first, second = next((a, b) for a in range(len(labels)) for b in range(len(labels)) if targets[b] == labels[a])
    two = {name: tensor[[first, second]] for name, tensor in masks.tensors.items()}
    found = fmtool.check_masks(model, attack, dataclasses.replace(masks, tensors=two), draws=1)
    assert found.controls[-2].n == 2 and found.controls[-1].n == int(labels[second] != targets[first])


@pytest.mark.slow
def test_another_classs_mask_as_it_is_may_turn_an_image_into_that_class(files: Path) -> None:
    """Of two images of two classes, each has the other's mask."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    two = torch.tensor([0, int((masks["targets"] != masks["targets"][0]).nonzero()[0])])
    few = dataclasses.replace(masks, tensors={name: tensor[two] for name, tensor in masks.tensors.items()})
    found = fmtool.check_masks(model, attack, few, draws=1)
    places = [attack["index"].tolist().index(index) for index in few["index"].tolist()]
    run = ready_model(model, fmtool.Execution(device="cpu"))
    ends = run.classifier(filter_images(attack["images"][places], few["masks"].flip(0))).argmax(1)
    assert found.controls[-1].name.endswith("into that class")
    assert found.controls[-1].preserved.value == pytest.approx(float((ends == few["targets"].flip(0)).double().mean()))


def test_masks_of_absent_images_are_left_out_with_a_warning(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    fewer = dataclasses.replace(attack, tensors={name: tensor[:20] for name, tensor in attack.tensors.items()})
    with pytest.warns(FmtoolWarning, match="masks are of images that are not in"):
        found = fmtool.check_masks(model, fewer, masks, draws=1)
    assert found.n == int((attack["status"][:20] != 1).sum())


@pytest.mark.slow
def test_what_is_taken_for_a_class_is_decided_by_the_model_that_runs(files: Path) -> None:
    """Another one than the file's, which takes every image for one class: masks turn nothing into it, and nothing away."""
    model, attack, essential = (load(files, name) for name in ("model", "fmn", "essential"))
    bias = model["linear.bias"].clone()
    bias[0] += 1e6
    zero = changed(model, **{"linear.bias": bias})
    found = fmtool.check_masks(zero, attack, essential, draws=1, execution=fmtool.Execution(allow_other_model=True))
    into = found.controls[-1]
    assert into.name.endswith("into that class") and into.n > 0 and into.preserved.value == 0


@pytest.mark.slow
def test_adversarial_masks_of_another_attack_are_refused(files: Path) -> None:
    """Even where it turned the images into the same classes; how many images there were changes nothing."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "adversarial"))

    def of(**options: object) -> fmtool.Artifact:
        history = [
            {**made, "options": {**made["options"], **options}} if made["command"] == "attack" else made
            for made in attack.history
        ]
        return dataclasses.replace(attack, history=history)

    with pytest.raises(ArtifactError, match=r"belong to different attacks: epsilon None and 0\.5"):
        fmtool.check_masks(model, of(**{"--epsilon": 0.5}), masks, draws=1)
    assert fmtool.check_masks(model, of(**{"--limit": 7}), masks, draws=1).n == len(masks["labels"])


@pytest.mark.slow
def test_what_does_not_belong_together_is_refused(files: Path) -> None:
    model, attack, essential, adversarial, plain = (
        load(files, name) for name in ("model", "fmn", "essential", "adversarial", "plain")
    )
    other = changed(model, **{"linear.bias": model["linear.bias"] + 1})
    with pytest.raises(ArtifactError, match="was made with model"):
        fmtool.check_masks(other, attack, essential)
    assert fmtool.check_masks(
        other, attack, essential, draws=1, execution=fmtool.Execution(allow_other_model=True)
    ).n == len(essential["labels"])
    lopsided = essential["masks"].clone()
    lopsided[0, 0, 1, 0] += 0.25 if float(lopsided[0, 0, 1, 0]) < 0.5 else -0.25
    for masks, pattern in (
        (changed(essential, masks=lopsided), "not symmetric"),
        (changed(essential, masks=essential["masks"] + 1), r"outside \[0, 1\]"),
        (changed(essential, key=essential["key"] + 1), "share no image"),
        (changed(essential, labels=(essential["labels"] + 1) % 10), "label the same images differently"),
        (changed(adversarial, targets=(adversarial["targets"] + 1) % 10), "they belong to another attack file"),
        (dataclasses.replace(adversarial, header={**adversarial.header, "attack": "pgd"}), "masks of PGD's images"),
        (
            dataclasses.replace(essential, header={**essential.header, "image_size": [8, 9]}),
            "the model takes images of",
        ),
        (changed(plain, classes=plain["classes"] + 1), "classes range from 1 to 10"),
    ):
        with pytest.raises(ArtifactError, match=pattern):
            fmtool.check_masks(model, attack, masks)
    with pytest.raises(MaskError, match="--draws 0"):
        fmtool.check_masks(model, attack, essential, draws=0)
    none = {name: tensor[:0] for name, tensor in essential.tensors.items()}
    with pytest.raises(MaskError, match="holds no mask"):
        fmtool.check_masks(model, attack, dataclasses.replace(essential, tensors=none))
