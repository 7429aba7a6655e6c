"""What class masks are fitted to, and classes without images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_files import changed, load
from torch import nn

import fmtool
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.masks.class_fitting import Part
from fmtool.runtime import resume_file
from fmtool.runtime.distributed import Ranks
from fmtool.stages import class_masks as stage


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
    with pytest.warns(FmtoolWarning) as told:
        fmtool.class_masks(load(files, "model"), changed(attack, status=status), robust=True, min_steps=5, max_steps=6)
    n, wrong, failed = len(status), int((status == WRONG_BEFORE).sum()), int((status == FAILED).sum())
    assert [str(one.message) for one in told][:2] == [
        f"{wrong} of {n} images are left out: the model gets them wrong",
        f"{failed} of {n - wrong} attacks failed: of these images only the clean ones are used",
    ]
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
    with pytest.warns(FmtoolWarning, match="no image of 3: no mask is fitted to it"):
        masks = fmtool.class_masks(model, fewer, min_steps=5, max_steps=6)
    assert masks["classes"].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert stage._some([str(number) for number in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more classes"
    parts = [Part(data.images[keep], data.labels[keep], data.labels[keep])]
    assert stage._counted(parts, [0, 3, 9]) == [int(torch.isin(data.labels[keep], torch.tensor([0, 9])).sum())]
    attack = load(files, "fmn")
    found = fmtool.defend(model, [attack], [masks])
    threes = attack["clean_predictions"] == 3
    assert torch.equal(found["predictions"][0, 1][threes], attack["clean_predictions"][threes])


def test_masks_that_are_not_finite_are_left_out_by_name() -> None:
    """The rest of the file would be refused with them."""
    masks = torch.ones(3, 1, 4, 3)
    masks[1, 0, 0, 0] = torch.nan
    columns = {"classes": torch.arange(3), "masks": masks}
    without = {name: values[[0, 2]] for name, values in columns.items()}
    assert stage._finite(without, ["a", "b", "c"], True) is without
    with pytest.warns(
        FmtoolWarning, match=r"the loss of b is not finite: .* They are left out, and pass the defence unfiltered"
    ):
        left = stage._finite(columns, ["a", "b", "c"], False)
    assert left["classes"].tolist() == [0, 2] and torch.equal(left["masks"], masks[[0, 2]])
    for classes, is_shard in (([1], False), ([0, 1], True)):
        with pytest.raises(MaskError, match="the loss of b is not finite"):
            stage._finite({name: values[classes] for name, values in columns.items()}, ["a", "b", "c"], is_shard)


def test_another_limit_on_steps_is_the_same_work(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run resumes with it; another lambda isn't. Processes that share the work must have the same limit."""
    works: list[dict[str, object]] = []
    agreed: list[str] = []
    resuming = resume_file.resuming

    def spy(target: str | None, work: dict[str, object], **more: Any) -> object:
        works.append(work)
        return resuming(target, work, **more)

    monkeypatch.setattr(resume_file, "resuming", spy)
    monkeypatch.setattr(Ranks, "check_work", lambda _, key: agreed.append(key))
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits", limit=20)
    execution = fmtool.Execution(output=str(tmp_path / "made"))
    for max_steps, lambda_ in ((1, 0.01), (2, 0.01), (2, 0.02)):
        made = fmtool.class_masks(model, data, min_steps=1, max_steps=max_steps, lambda_=lambda_, execution=execution)
        assert made.header["max_steps"] == made.history[-1]["options"]["--max-steps"] == max_steps
    assert works[0] == works[1] != works[2] and len(set(agreed)) == 3
