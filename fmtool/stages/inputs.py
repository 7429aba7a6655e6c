"""Check that inputs belong together, and describe them in headers and histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.history import ATTACK_COMMANDS, newest
from fmtool.artifacts.rows import ROWS, check_no_shard, check_range
from fmtool.datasets.data import Data
from fmtool.datasets.rows import in_parts, with_channels
from fmtool.errors import ArtifactError, DataError, warn
from fmtool.masks.basis import Basis
from fmtool.models.model_files import Specification
from fmtool.models.registry import INPUT, is_factory

FOLDERS = ("folders", "zips")  # formats whose classes are folders
MODEL_MAKERS = ("train-model", "import-model")
NAMES_SHOWN = 3  # of the classes of data and of a model that don't belong together


def fitted_data(data: Data, spec: Specification, model: Artifact | None = None) -> Data:
    """The data adapted to the model: its number of channels, and labels that are its outputs; a warning reports changes.

    model: the file of `spec`, whose history tells whether its classes have been named; None if they have.
    DataError if the images don't have the model's input shape, or the classes have other names than the model's.
    """
    data = fitted_images(data, spec)
    if model is not None and _may_be_in_other_order(data, model):
        warn(
            f"{data.name}: its folders are numbered by value ({_some(data.class_names)}), but for a network trained with "
            f"torchvision's ImageFolder they are in the order of text ({_some(sorted(data.class_names))}): if the model is "
            "one, import it again with --class-names in that order, else pass --classes-by-position"
        )
    data = _with_labels_of(data, spec.class_names)
    if len(data):
        least, most = int(data.labels.min()), int(data.labels.max())
        if data.reach is not None and 0 < data.reach[0] <= least:  # labels from 1 on may fit in some rows, one off
            least, most = data.reach
        if most >= len(spec.class_names):
            hint = ": do the labels start at 1?" if least == 1 else ""
            raise DataError(
                f"{data.name}: labels go up to {most}, but the model's {len(spec.class_names)} classes are numbered from 0{hint}"
            )
    return data


def fitted_images(data: Data, spec: Specification) -> Data:
    """Data with the model's number of channels, grey or colour; DataError if the shape is not that of the model's input."""
    have, wanted = int(data.images.shape[1]), int(spec.input_shape[0])
    if {have, wanted} == {1, 3} and tuple(data.images.shape[2:]) == tuple(spec.input_shape[1:]):
        done = "grey is repeated in its three channels" if wanted == 3 else "it gets their luma"
        warn(f"{data.name}: images of {have} channels for a model of {wanted}: {done}")
        data = replace(data, images=with_channels(data.images, wanted))
    check_shape(data.images, spec, data.name)
    return data


def _with_labels_of(data: Data, names: Sequence[str]) -> Data:
    """Labels that number the model's classes, matched by name if both data and model have names, else by position."""
    model = tuple(names)
    # some systems write an accent as a character of its own
    own, names = (tuple(normalize("NFC", one) for one in some) for some in (data.class_names, model))
    unnamed = tuple(names) == tuple(map(str, range(len(names))))
    if not own and not unnamed and not data.classes_by_position:
        warn(f"{data.name}: names no classes: its labels 0, 1, ... are taken as the model's outputs {_some(names)}")
    if not own or data.class_names == model:
        return data
    if own == names:
        return replace(data, class_names=model)
    strange = [name for name in own if name not in set(names)]
    if data.classes_by_position or (unnamed and strange):
        if len(own) != len(names):
            way = ": import the model again with --keep-classes, or with --class-names to match all outputs by name"
            more = way if unnamed and len(own) < len(names) else ""
            raise DataError(f"{data.name}: has {len(own)} classes, the model {len(names)}{more}")
        if not data.classes_by_position:
            warn(f"{data.name}: the model calls its classes 0 to {len(names) - 1}: labels are taken by position")
        return data
    if strange:
        raise DataError(
            f"{data.name}: its classes ({_some(strange)}) are not among the model's ({_some(names)}): "
            "to use the labels as the model's outputs, pass --classes-by-position"
        )
    twice = next((name for name in own if own.count(name) > 1 or list(names).count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{data.name}: several classes are called {twice}, so labels can't be matched by name: "
            "to use the labels as the model's outputs, pass --classes-by-position"
        )
    if len(own) < len(names):
        warn(f"{data.name}: has {len(own)} of the model's {len(names)} classes: labels are matched by name")
    else:
        warn(f"{data.name}: has its classes in a different order from the model: labels are matched by name")
    number = {name: row for row, name in enumerate(names)}
    places = torch.tensor([number[name] for name in own], dtype=torch.int64)
    return replace(data, labels=places[data.labels], class_names=model)


def _may_be_in_other_order(data: Data, model: Artifact) -> bool:
    """Whether folders named by whole numbers meet a model, trained elsewhere, that hasn't been told its classes' names."""
    names = data.class_names
    if data.classes_by_position or data.format not in FOLDERS or list(names) == sorted(names):
        return False
    newest = model.history[-1] if model.history else {}
    elsewhere = bool(newest.get("inputs")) or is_factory(str(model.header.get("architecture")))
    unnamed = newest.get("command") == "import-model" and "--class-names" not in newest["options"]
    return elsewhere and unnamed


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def check_shape(images: Rows, spec: Specification, name: str) -> None:
    """Check that images (n, c, h, w) have the model's input shape."""
    if tuple(images.shape[1:]) != tuple(spec.input_shape):
        raise DataError(f"{name}: images are {_shape(images.shape[1:])}, the model takes {_shape(spec.input_shape)}")


def check_attack(
    attack: Artifact,
    model: Artifact,
    spec: Specification,
    allow_other_model: bool,
    *,
    adaptive: bool = False,
    chooses: bool = False,
) -> bool:
    """Check that the attack was made on this model, that its images fit, and that its values are valid.
    Whether it was made on this model, which allow_other_model leaves open.

    adaptive: also accept an attack on the two-pass classifier. chooses: its `status` chooses images; a warning says if that is
    another model's.
    """
    attack.expect("attack")
    if attack.header.get("defense") and not adaptive:
        raise ArtifactError(f"{attack}: was made against the two-pass defence: its predictions are not the model's")
    check_no_shard(attack)
    same = check_same_model(attack, model, allow_other_model)
    if not same and chooses:
        warn(
            f"{attack}: its images are chosen by the predictions of the model that the file was made with, not of {model}"
        )
    check_shape(attack.rows("images"), spec, str(attack))
    classes = len(spec.class_names)
    for name in ("labels", "clean_predictions", "adversarial_predictions"):
        check_range(attack[name], classes, f"{attack}: {name}")
    check_range(attack["status"], 3, f"{attack}: status")
    for name in ("images", "adversarial"):
        for _, some in in_parts(attack.rows(name)):
            low, high = (float(v) for v in some.aminmax())
            if not (low >= 0 and high <= 1):
                raise ArtifactError(f"{attack}: {name} range from {low:.6g} to {high:.6g}, expected [0, 1]")
    return same


def was_compiled(attack: Artifact) -> bool:
    """Whether an attack file was made, and success judged, by the compiled network: what reads its images should run that too.

    FMN's images are so close to the boundary that different rounding may undo them.
    """
    maker = newest(attack.history, *ATTACK_COMMANDS)
    return maker is not None and maker["options"].get("--compile") is True


def check_same_model(other: Artifact, model: Artifact, allow: bool) -> bool:
    """Whether a file was made with this model. ArtifactError if not, unless `allow`, and for classes in a different order."""
    made_with = other.input_digest("model")
    if made_with == model.digest:
        return True
    if not allow:
        raise ArtifactError(
            f"{other}: was made with model {str(made_with)[:12]}, not with {model} ({model.digest[:12]}); "
            "to use it anyway, pass --allow-other-model"
        )
    names, own = list(other.header["class_names"]), list(model.header["class_names"])
    if len(names) != len(own):
        raise ArtifactError(f"{other}: has {len(names)} classes, the model {len(own)}")
    made = [
        stage for stage in other.history if stage["command"] not in MODEL_MAKERS
    ]  # what trained its model is all the same
    if names == own or any(one.get("classes-by-position") for stage in made for one in stage["inputs"]):
        return False  # where the names differ, they are the data's
    if sorted(names) == sorted(own):
        raise ArtifactError(
            f"{other}: has the classes of {model} in a different order, so its labels number other classes: "
            "make it again with this model"
        )
    warn(f"{other}: its classes ({_some(names)}) are not the model's ({_some(own)}): labels are taken by position")
    return False


def check_masks_shape(masks: Rows, basis: Basis, file: Artifact, shape: Sequence[int], layer: str = INPUT) -> None:
    """Check that a file's masks (n, c, rows, columns) fit the model's images, or the output of a layer, of shape (c, h, w)."""
    c, h, w = shape
    if tuple(masks.shape[1:]) != (c, *basis.shape) or (basis.h, basis.w) != (h, w):
        expected = f"the model takes images of {[h, w]} with {c} channels"
        if layer != INPUT:
            expected = f"the output of layer {layer} is {[h, w]} with {c} channels"
        raise ArtifactError(f"{file}: masks are {list(masks.shape[1:])} for images of {[basis.h, basis.w]}, {expected}")


def rows_of(source: Artifact | Data) -> dict[str, Tensor]:
    """labels, key, index, source (n) int64 of a file's or a data set's images."""
    if isinstance(source, Data):
        return {
            "labels": source.labels,
            "key": source.key,
            "index": source.index,
            "source": torch.zeros(len(source), dtype=torch.int64),
        }
    return {name: source[name] for name in ROWS}


def inputs_of(model: Artifact, source: Artifact | Data) -> list[Any]:
    """What `history.stage` takes for a model and a file or a data set."""
    return [model, data_input(source) if isinstance(source, Data) else source]


def data_input(data: Data, option: str = "--data") -> dict[str, Any]:
    """A data set that `option` takes, as an input in a history, with the options that chose and squeezed its images."""
    return {"option": option, **data.record(), **data.chosen_by(), "digest": data.digest}


def data_header(source: Artifact | Data, spec: Specification) -> dict[str, Any]:
    """The header fields that say which images a file is about; class names are the data's, if it has any."""
    if isinstance(source, Data):
        return {"data": [source.record()], "class_names": list(source.class_names or spec.class_names)}
    return {name: source.header[name] for name in ("data", "class_names")}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
