"""Grids: which images they show, and that each cell shows its mask or image."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from figures import Load, pictures, row_of
from half_spectrum import filter_images, shifted

from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError, FmtoolError, FmtoolWarning
from fmtool.plotting.figure import draw
from fmtool.plotting.grids import chosen


@pytest.mark.slow
def test_mask_grids_show_the_same_images_with_the_zero_frequency_in_the_centre(load: Load) -> None:
    essential, adversarial = load("essential"), load("adversarial")
    figure = draw([essential, adversarial], 5)
    shown = pictures(figure)
    assert len(shown) == 10
    picked = chosen([essential, adversarial], 5)
    for column in range(5):
        key = int(essential["key"][picked[0][column]])
        for row, file in enumerate((essential, adversarial)):
            mask = shifted(file["masks"][row_of(file, key)], 8)[0]
            np.testing.assert_array_equal(shown[5 * row + column], mask.numpy())
    labels = [int(essential["labels"][row]) for row in picked[0]]
    assert len(set(labels)) == 5 and labels == sorted(labels)
    assert [axes.get_title() for axes in figure.axes[:5]] == [str(label) for label in labels]


def part_of(file: Artifact, rows: torch.Tensor) -> Artifact:
    """Some rows of a file, in this order."""
    return replace(file, tensors={name: tensor[rows] for name, tensor in file.tensors.items()})


def test_figures_made_apart_show_the_same_images(load: Load) -> None:
    """Figure 3 of essential masks alone, Figure 5 of adversarial ones, of which some are missing, in another order."""
    essential, whole = load("essential"), load("adversarial")
    adversarial = part_of(whole, torch.arange(len(whole["key"])).flip(0)[::2])
    places = [chosen([essential], 6, [adversarial])[0], chosen([adversarial], 6, [essential])[0]]
    keys = [file["key"][rows].tolist() for file, rows in zip((essential, adversarial), places, strict=True)]
    assert keys[0] == keys[1] and len(set(keys[0])) == 6
    shown = pictures(draw([adversarial], 6, like=[essential]))
    for picture, key in zip(shown, keys[0], strict=True):
        mask = shifted(adversarial["masks"][row_of(adversarial, key)], 8)[0]
        np.testing.assert_array_equal(picture, mask.numpy())
    assert essential["key"][chosen([essential], 6)[0]].tolist() != keys[0]  # or this would show nothing


def test_only_masks_that_keep_their_class_are_shown(load: Load) -> None:
    """In the files drawn and in those that only limit them, so that figures made apart still show the same images."""
    attack, essential, adversarial = (load(name) for name in ("fmn", "essential", "adversarial"))
    essential["preserved"][:], adversarial["preserved"][:] = True, True
    first = chosen([essential, adversarial], 60)
    essential["preserved"][first[0][::2]] = False
    adversarial["preserved"][first[1][1]] = False
    left = set(essential["key"][first[0][3::2]].tolist())
    assert len(left) > 5
    for files, like in (
        ([essential, adversarial], []), ([adversarial], [essential]), ([essential], [adversarial]),
        ([attack, essential, adversarial], []),
    ):  # fmt: skip
        found = chosen(files, 60, like)
        assert all(set(file["key"][rows].tolist()) == left for file, rows in zip(files, found, strict=True))
    adversarial["preserved"][:] = False
    with pytest.warns(FmtoolWarning, match=r"no image has masks that keep its class in .*essential.*, .*adversarial"):
        found = chosen([essential], 60, [adversarial])
    assert len(found[0]) == len(first[0])


@pytest.mark.slow
def test_filtered_images_are_what_the_masks_leave(load: Load) -> None:
    attack, essential, adversarial = (load(name) for name in ("fmn", "essential", "adversarial"))
    shown = pictures(draw([essential, attack, adversarial], 3))
    places = chosen([attack, essential, adversarial], 3)
    for column in range(3):
        image, adversary = (attack[name][places[0][column]] for name in ("images", "adversarial"))
        kept = filter_images(image, essential["masks"][places[1][column]])
        turned = filter_images(adversary, adversarial["masks"][places[2][column]])
        for row, expected in enumerate((image, adversary, kept, turned)):
            np.testing.assert_allclose(shown[3 * row + column], expected[0].clamp(0, 1).numpy(), atol=1e-6)
    history = [{**made, "seed": 7} if made["command"] == "attack" else made for made in attack.history]
    other = dataclasses.replace(attack, history=history)
    with pytest.raises(FmtoolError, match=r"masks of FMN's images, which .* doesn't hold"):
        draw([other, adversarial], 3)


def test_class_masks_are_named(load: Load) -> None:
    figure = draw([load("robust")], 3)
    assert [axes.get_title() for axes in figure.axes[:10]] == list("0123456789")


def test_three_channels_are_colours() -> None:
    masks = torch.rand(2, 3, 8, 5)
    rows = {name: torch.arange(2) for name in ("labels", "key", "index", "source")}
    rows["preserved"] = torch.ones(2, dtype=torch.bool)
    header = {"image_size": [8, 8], "for": "essential", "attack": None, "class_names": ["a", "b"]}
    figure = draw([Artifact("masks", header, {"masks": masks, **rows})], 2)
    np.testing.assert_allclose(pictures(figure)[1], shifted(masks[1], 8).permute(1, 2, 0).numpy())


def test_same_images_goes_with_single_images(load: Load) -> None:
    with pytest.raises(FmtoolError, match=r"goes with figures of single images \(masks, filtered\), not with null"):
        draw([load("correlation")], 8, like=[load("essential")])
    with pytest.raises(ArtifactError, match="identifies its images, got one of kind model"):
        draw([load("essential")], 8, like=[load("model")])


def test_masks_of_another_model_are_refused(load: Load) -> None:
    attack = load("fmn")
    history = [{**made, "inputs": [{**one, "digest": "other"} for one in made["inputs"]]} for made in attack.history]
    with pytest.raises(ArtifactError, match=r"were made with different models$"):
        draw([replace(attack, history=history), load("essential")], 2)


def test_masks_of_another_attacks_images_are_refused(load: Load) -> None:
    masks = load("adversarial")
    other = replace(masks, header={**masks.header, "attack": "pgd"})
    with pytest.raises(ArtifactError, match=r"masks of PGD's images, which .*fmn.* doesn't hold"):
        draw([load("fmn"), other], 2)


def test_images_that_the_attack_did_not_turn_are_no_adversarial_images(load: Load) -> None:
    """Essential masks have rows of them too."""
    attack, essential = load("fmn"), load("essential")
    essential["preserved"][:] = True
    attack["status"][::2] = 2
    (rows, _) = chosen([attack, essential], 60)
    assert len(rows) and bool((attack["status"][rows] == 0).all())
    few = part_of(essential, torch.arange(4))
    attack["status"][:] = 0
    attack["status"][chosen([attack, few], 4)[0]] = 2
    with pytest.raises(ArtifactError, match="none of the images that all files hold was attacked successfully"):
        draw([attack, few], 3, "filtered")
    attack["status"][:] = 2
    with pytest.raises(ArtifactError, match="no attack succeeded"):
        draw([attack, essential], 3, "filtered")


def test_rows_are_named_on_lines_of_their_own(load: Load) -> None:
    adapted = load("essential")
    adapted = replace(adapted, header={**adapted.header, "adapt_lambda": True})
    assert draw([adapted, load("adversarial")], 3, "masks").axes[0].get_ylabel() == "essential,\nadapted lambda"
