"""Which images get masks, and what they are fitted to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_files import FEW, changed, load

import fmtool
from fmtool.artifacts.rows import join
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.models.model_files import from_artifact


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


@pytest.mark.slow
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
    with pytest.raises(MaskError, match="no image is left: adversarial masks"):
        fmtool.fit_masks(model, none_worked, for_="adversarial", **FEW)
    none_right = changed(attack, status=torch.full_like(attack["status"], WRONG_BEFORE))
    with pytest.raises(MaskError, match="no image is left: essential masks"):
        fmtool.fit_masks(model, none_right, for_="essential", **FEW)
    with pytest.raises(MaskError, match="image is left"):
        fmtool.class_masks(model, none_right, robust=True)


@pytest.mark.slow
def test_few_preserved_masks_warn_with_a_lambda_in_proportion_to_the_logits(files: Path) -> None:
    model, attack = load(files, "model"), load(files, "fmn")
    with pytest.warns(FmtoolWarning, match="lambda 100 may be too high") as told:
        masks = fmtool.fit_masks(model, attack, for_="essential", lambda_=100, min_steps=150, max_steps=160)
    places, _ = join([attack, masks])
    with torch.no_grad():
        logits = from_artifact(model)[0].eval()(attack["images"][places])
    height = float((logits.amax(dim=1) - logits.mean(dim=1)).median())
    entries = attack["images"][0].numel()
    expected = (
        f"The penalty of a mask of ones, {100 * entries}, is {100 * entries / height:.3g} times the height of the largest logit "
        f"above the mean logit (median {height:.3g}). For a ratio of 30, try "
        f"--lambda {30 * height / entries:.2g}, or --adapt-lambda"
    )
    assert any(expected in str(one.message) for one in told)


@pytest.mark.slow
def test_the_suggestion_is_left_out_where_lambda_means_something_else(files: Path) -> None:
    with pytest.warns(FmtoolWarning, match=r"lambda 100000 may be too high, see --lambda and --adapt-lambda$"):
        fmtool.fit_masks(
            load(files, "model"),
            load(files, "fmn"),
            lambda_=100_000,
            objective="invariance",
            min_steps=150,
            max_steps=160,
        )


@pytest.mark.slow
def test_who_adapts_lambda_is_not_told_to(files: Path) -> None:
    options: dict[str, Any] = {"lambda_": 1e6, "adapt_lambda": True, "min_steps": 60, "max_steps": 61, "limit": 12}
    with pytest.warns(FmtoolWarning) as told:
        fmtool.fit_masks(load(files, "model"), load(files, "fmn"), for_="essential", **options)
    (said,) = [str(one.message) for one in told if "may be too high" in str(one.message)]
    assert "try --lambda " in said and "--adapt-lambda" not in said


def test_images_that_get_no_mask_are_counted(files: Path) -> None:
    attack = load(files, "fmn")
    status = torch.zeros_like(attack["status"])
    status[:3], status[3] = 1, 2
    for for_, count in (("essential", 3), ("adversarial", 4)):
        with pytest.warns(FmtoolWarning, match=f"{count} of {len(status)} images get no mask: .* masks are for "):
            fmtool.fit_masks(load(files, "model"), changed(attack, status=status), for_=for_, **FEW)
