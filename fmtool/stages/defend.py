"""Evaluate the defence: accuracy after the second pass, per attack and set of class masks (paper, section 4.8, Table 4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.history import newest, shares_images, stage
from fmtool.artifacts.rows import ROWS, check_no_shard, check_range, check_unit, image_names, join
from fmtool.attacks import registry
from fmtool.attacks.registry import WRONG_BEFORE
from fmtool.datasets.rows import take
from fmtool.errors import ArtifactError, warn
from fmtool.masks.basis import basis_of
from fmtool.masks.two_pass import TwoPass
from fmtool.models.classifier import NO_CLASS, predict, warn_unclassified
from fmtool.models.foreign_code import own_settings
from fmtool.stages.device_faults import halving
from fmtool.stages.inputs import check_attack, check_masks_shape, check_same_model, was_compiled
from fmtool.stages.options import DEFAULT_EXECUTION, Execution
from fmtool.stages.prepare import ReadyModel, ready_model

NO_CELL = -1  # in `predictions`, where a row has no cell
UNCLASSIFIED = -2  # in `predictions`, of an image without a class: NO_CLASS is NO_CELL's number


@dataclass(frozen=True)
class _Row:
    """A row of the matrix: column -> images (n, c, h, w), the same in every column except for adaptive attacks, and whether the
    network runs compiled on them, as it did in the attack.

    bound: name and options of an adaptive attack, as one text; None for other rows.
    """

    cells: dict[int, tuple[Rows, bool]]
    bound: str | None = None


# Over 60 lines, a third of them signature and docstring.
@own_settings()
@halving
def defend(
    model: Artifact,
    attacked: Sequence[Artifact],
    class_masks: Sequence[Artifact],
    *,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """Table 4: a row for the clean images and each `attack` artifact, a column for no mask and each `class-masks` artifact.

    Every row is about the images that all attack files share. A cell's `accuracy` is the share right after the second pass over
    all n; `accuracy_right_before`, the authors' figure, counts only those that the model gets right when clean, over the same n.
    Adaptive attacks come last, and have cells only in the columns of the masks that they were made against. `worst` is right
    when clean and under every other attack, image by image; `clean_drop` the clean accuracy that a column loses. An image whose
    logits are not finite is wrong in that cell. The network runs compiled on the images of an attack that ran it compiled, and on
    the clean ones as the first attack did.
    """
    execution.refuse("defend", "shard", "ranks")
    if not attacked or not class_masks:
        raise ArtifactError("expected at least one attack file and one class-masks file")
    ready = ready_model(model, execution)
    same = [check_attack(file, model, ready.spec, execution.allow_other_model, adaptive=True) for file in attacked]
    for file in class_masks:
        check_class_masks(file, model, ready, execution.allow_other_model)
        seen = [str(one) for one in attacked if shares_images(file.history, one.history)]
        if seen:
            warn(
                f"{file}: seems to be fitted to images of the same data as {', '.join(seen)}: it may do worse on unseen ones"
            )

    def defenses_of(network: nn.Module) -> list[nn.Module]:
        return [network, *(two_pass(file, ready, network) for file in class_masks)]

    defenses = {form: defenses_of(ready.network(form)) for form in sorted({was_compiled(file) for file in attacked})}
    places = _places(attacked)
    _warn_of_others(attacked, places, same)
    rows, columns = _rows(attacked, places, class_masks), _columns(class_masks)
    first, place = attacked[0], places[0]
    labels = first["labels"][place]
    predictions = torch.full((len(rows), len(columns), len(labels)), NO_CELL)
    cells = [(number, *cell) for number, row in enumerate(rows.values()) for cell in row.cells.items()]
    for done, (row, column, (images, form)) in enumerate(cells, start=1):
        predicted = predict(
            defenses[form][column],
            images,
            ready.batch,
            ready.device,
            name=f"cell {done} of {len(cells)}",
            progress=execution.progress,
            strict=False,
        )
        predictions[row, column] = predicted.where(predicted != NO_CLASS, UNCLASSIFIED)
    lost = int((predictions == UNCLASSIFIED).sum())
    warn_unclassified(lost, len(cells) * len(labels), "images in the table's cells", "they count as wrong there")
    header = {
        "rows": list(rows),
        "columns": columns,
        "n": len(labels),
        "class_names": first.header["class_names"],
        **_matrix(predictions, labels, [row.bound is not None for row in rows.values()]),
        "data": first.header["data"],
    }
    tensors = {"predictions": predictions, **{name: first[name][place] for name in ROWS}}
    history = stage("defend", ready.recorded(), None, [model, *attacked, *class_masks])
    return execution.write(Artifact("defense", header, tensors, history))


def _places(attacked: Sequence[Artifact]) -> list[Tensor]:
    """Each file's rows (n) of the images that all of them share, which must have the same labels."""
    places = join(attacked) if len(attacked) > 1 else [torch.arange(len(attacked[0]["labels"]))]
    left_out = len({name for file in attacked for name in image_names(file["key"], file["index"])}) - len(places[0])
    if left_out:
        warn(f"{left_out} images are not in every attack file and are left out")
    first, labels = attacked[0], attacked[0]["labels"][places[0]]
    for file, place in zip(attacked, places, strict=True):
        if not torch.equal(file["labels"][place], labels):
            raise ArtifactError(f"{file} and {first} label the same images differently")
    return places


def _warn_of_others(attacked: Sequence[Artifact], places: Sequence[Tensor], same: Sequence[bool]) -> None:
    """Count the images that the attack on another model left alone. This one may well get them right: they seem to withstand."""
    for file, place, own in zip(attacked, places, same, strict=True):
        alone = int((file["status"][place] == WRONG_BEFORE).sum())
        if alone and not own:
            warn(
                f"{file}: {alone} of {len(place)} images were not attacked, as the model that the file was made with gets them "
                "wrong: its row counts them unattacked"
            )


def _rows(attacked: Sequence[Artifact], places: Sequence[Tensor], class_masks: Sequence[Artifact]) -> dict[str, _Row]:
    """Clean images, attacks that ignore the masks, then adaptive ones, with one row for each attack and epsilon."""
    every = range(1 + len(class_masks))
    pairs = list(zip(attacked, places, strict=True))

    def images(name: str, file: Artifact, place: Tensor) -> tuple[Rows, bool]:
        return take(file.rows(name), place), was_compiled(file)

    rows = {"clean": _Row(dict.fromkeys(every, images("images", *pairs[0])))}
    for file, place in pairs:
        if not file.header.get("defense"):
            name = _free_name(_name(file, [one for one, _ in pairs]), rows)
            rows[name] = _Row(dict.fromkeys(every, images("adversarial", file, place)))
    for file, place in pairs:
        if file.header.get("defense"):
            name, columns = str(file.header["attack"]), _columns_of(file, class_masks)
            strength = {**file.header["options"], "restarts": file.header["defense"]["restarts"]}
            bound = json.dumps([name, strength], sort_keys=True)
            row = next((one for one in rows.values() if one.bound == bound and not one.cells.keys() & columns), None)
            if row is None:
                row = rows[_free_name(f"adaptive {_name(file, [one for one, _ in pairs])}", rows)] = _Row({}, bound)
            row.cells.update(dict.fromkeys(columns, images("adversarial", file, place)))
    return rows


def _name(file: Artifact, files: Sequence[Artifact]) -> str:
    """The attack's name, with its epsilon if another file of the same attack has a different one; titles for adaptive attacks."""
    name, adaptive = str(file.header["attack"]), bool(file.header.get("defense"))
    others = {one.header["options"].get("epsilon") for one in files if one.header["attack"] == name}
    epsilon = file.header["options"].get("epsilon")
    if len(others) > 1 and epsilon is not None:
        return f"{registry.title(name)} epsilon {float(epsilon):.3g}"
    return registry.title(name) if adaptive else name


def _columns(class_masks: Sequence[Artifact]) -> list[str]:
    """Their names, no mask first. Masks of one title have the attack's epsilon and lambda behind it, as far as these differ."""
    titles, columns = [registry.masks_title(file.header) for file in class_masks], ["none"]
    known = [_origin(file) for file in class_masks]
    for title, own in zip(titles, known, strict=True):
        alike = [origin for origin, other in zip(known, titles, strict=True) if other == title]
        differing = [what for what in own if len({origin[what] for origin in alike}) > 1 and own[what] is not None]
        columns.append(_free_name(", ".join([title, *(f"{what} {own[what]:.3g}" for what in differing)]), columns))
    return columns


def _origin(class_masks: Artifact) -> dict[str, float | None]:
    """The epsilon of the attack that robust masks are fitted to, if it has one, and lambda."""
    attack = newest(class_masks.history, "attack") if class_masks.header["robust"] else None
    return {"epsilon": attack and attack["options"].get("--epsilon"), "lambda": class_masks.header["lambda"]}


def _columns_of(file: Artifact, class_masks: Sequence[Artifact]) -> list[int]:
    """The columns of the masks that an adaptive attack was made against."""
    digest = file.header["defense"]["digest"]
    columns = [column for column, masks in enumerate(class_masks, start=1) if masks.digest == digest]
    if not columns:
        name = registry.masks_title(file.header["defense"])
        raise ArtifactError(
            f"{file}: attacks the {name} class masks {digest[:12]}, which are not among the class-masks files given"
        )
    return columns


def _matrix(predictions: Tensor, labels: Tensor, adaptive: Sequence[bool]) -> dict[str, Any]:
    """The header's accuracies from predictions (rows, columns, n), clean images first; adaptive: whether a row is."""
    right = predictions == labels
    right_before = right[0, 0]  # the bare model on the clean images

    def cell(hits: Tensor, adapted: bool) -> dict[str, Any]:
        return {
            "accuracy": float(hits.double().mean()),
            "accuracy_right_before": float((hits & right_before).double().mean()),
            "adaptive": adapted,
        }

    there = (predictions != NO_CELL).any(dim=2).tolist()
    matrix = [
        [cell(hits, adapted) if filled else None for hits, filled in zip(row, cells, strict=True)]
        for row, cells, adapted in zip(right, there, adaptive, strict=True)
    ]
    unaware = right[[number for number, adapted in enumerate(adaptive) if not adapted]]
    clean = right[0].double().mean(dim=1)
    return {
        "matrix": matrix,
        "worst": [cell(hits, False) for hits in unaware.all(dim=0)] if len(unaware) > 2 else None,
        "clean_drop": (clean[0] - clean).tolist(),
        "adaptive": any(adaptive),
    }


def check_class_masks(file: Artifact, model: Artifact, ready: ReadyModel, allow_other_model: bool) -> None:
    """Check that the masks of a `class-masks` artifact fit the model; warn of classes that have none."""
    file.expect("class-masks")
    check_no_shard(file)
    check_same_model(file, model, allow_other_model)
    check_masks_shape(file["masks"], basis_of(file.header, file), file, ready.spec.input_shape)
    classes = len(ready.spec.class_names)
    check_range(file["classes"], classes, f"{file}: classes")
    check_unit(file["masks"], str(file))
    if len(file["classes"]) < classes:
        warn(
            f"{file}: has masks of {len(file['classes'])} of {classes} classes: images predicted as another class pass unfiltered"
        )


def two_pass(file: Artifact, ready: ReadyModel, network: nn.Module) -> TwoPass:
    """The two-pass classifier with the masks of a `class-masks` artifact; network: the classifier in the form that is to run."""
    classes, basis = len(ready.spec.class_names), basis_of(file.header, file)
    return TwoPass(network, file["masks"], file["classes"], classes, basis).eval().to(ready.device)


def _free_name(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number behind its title if a name of the same title is taken."""
    number, free, shown = 1, name, set(map(registry.title, taken))
    while registry.title(free) in shown:
        number += 1
        free = f"{registry.title(name)} {number}"
    return free
