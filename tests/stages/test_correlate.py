"""Which pairs of masks are correlated, and how they are joined."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from small_files import changed, load

import fmtool
from fmtool.errors import FmtoolWarning, MaskError, StatisticError


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


def test_masks_of_two_models_get_a_line(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    history = copy.deepcopy(adversarial.history)
    for stage in history:
        for source in stage["inputs"]:
            if source["kind"] == "model":
                source["digest"] = "0" * 64
    with pytest.warns(FmtoolWarning, match="masks of two models"):
        fmtool.correlate(essential, dataclasses.replace(adversarial, history=history), permutations=3)


def test_labels_are_for_matrices(files: Path) -> None:
    essential, adversarial = load(files, "essential"), load(files, "adversarial")
    with pytest.raises(StatisticError, match=r"^labels: mask files have their own, those given are for matrices$"):
        fmtool.correlate(essential, adversarial, labels=essential["labels"])
