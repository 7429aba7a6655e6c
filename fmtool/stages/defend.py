"""Evaluate the defence: accuracy after the second pass, per attack and set of class masks (paper, section 4.8, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fmtool import artifacts, attacks
from fmtool.artifacts import Artifact
from fmtool.defense import TwoPass
from fmtool.errors import ArtifactError
from fmtool.models.classifier import predict
from fmtool.stages.common import (
    ROWS,
    Progress,
    Ready,
    check_attack,
    check_range,
    check_same_model,
    check_unit,
    join,
    ready,
    warn,
)


def defend(
    model: Artifact,
    attacked: Sequence[Artifact],
    class_masks: Sequence[Artifact],
    *,
    device: str = "auto",
    batch: int | None = None,
    factory: str | None = None,
    allow_other_model: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Table 4: a row for the clean images and each `attack` artifact, a column for no mask and each `class-masks` artifact.

    Every row is about the images that all attack files share. A cell's `accuracy` is the share right after the second pass over
    all n; `accuracy_right_before`, the authors' figure, counts only those that were right when clean too, over the same n.
    """
    if not attacked or not class_masks:
        raise ArtifactError("expected at least one attack file and one class-masks file")
    run = ready(model, device, batch, factory)
    for file in attacked:
        check_attack(file, model, run.spec, allow_other_model)
    defenses = [None, *(_two_pass(file, model, run, allow_other_model) for file in class_masks)]
    places = join(attacked) if len(attacked) > 1 else [torch.arange(len(attacked[0]["labels"]))]
    left_out = max(len(file["labels"]) for file in attacked) - len(places[0])
    if left_out:
        warn(f"{left_out} images are not in every attack file and are left out")
    first, rows = attacked[0], places[0]
    labels, right_before = first["labels"][rows], first["clean_predictions"][rows] == first["labels"][rows]
    images = {"clean": first["images"][rows]}
    for file, place in zip(attacked, places, strict=True):
        if not torch.equal(file["labels"][place], labels):
            raise ArtifactError(f"{file} and {first} give the same images other labels")
        images[_free_name(str(file.header["attack"]), images)] = file["adversarial"][place]
    columns = ["none"]
    for file in class_masks:
        columns.append(_free_name(_column(file), columns))
    found: list[list[Tensor]] = []
    for row in images.values():
        found.append([])
        for defense in defenses:
            found[-1].append(predict(defense or run.classifier, row, run.batch, run.device))
            if progress:
                progress("defending", sum(map(len, found)), len(images) * len(defenses))
    predictions = torch.stack([torch.stack(row) for row in found])
    right = predictions == labels
    header = {
        "rows": list(images),
        "columns": columns,
        "n": len(labels),
        "class_names": first.header["class_names"],
        "matrix": [
            [
                {
                    "accuracy": float(cell.double().mean()),
                    "accuracy_right_before": float((cell & right_before).double().mean()),
                }
                for cell in row
            ]
            for row in right
        ],
        "adaptive": False,
        "data": first.header["data"],
    }
    tensors = {"predictions": predictions, **{name: first[name][rows] for name in ROWS}}
    history = artifacts.stage("defend", {"batch_size": run.batch}, None, [model, *attacked, *class_masks])
    return Artifact("defense", header, tensors, history)


def _two_pass(file: Artifact, model: Artifact, run: Ready, allow_other_model: bool) -> TwoPass:
    check_same_model(file, model, allow_other_model)
    c, h, w = run.spec.input_shape
    if tuple(file["masks"].shape[1:]) != (c, h, w // 2 + 1) or file.header["image_size"] != [h, w]:
        raise ArtifactError(
            f"{file}: masks are {list(file['masks'].shape[1:])} for images of {file.header['image_size']}, "
            f"the model takes images of {[h, w]} with {c} channels"
        )
    check_range(file["classes"], len(run.spec.class_names), f"{file}: classes")
    check_unit(file["masks"], str(file))
    return TwoPass(run.classifier, file["masks"], file["classes"], len(run.spec.class_names)).eval().to(run.device)


def _column(file: Artifact) -> str:
    return f"robust {attacks.title(str(file.header['attack']))}" if file.header["robust"] else "plain"


def _free_name(name: str, taken: Sequence[str] | dict[str, Tensor]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free
