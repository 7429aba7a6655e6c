"""Make an `attack` artifact from adversarial images that another library made: AutoAttack, torchattacks, ART, own code."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmtool.artifacts import files
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import IMPORTED, stage
from fmtool.artifacts.matrices import SHOWN
from fmtool.attacks.foolbox import take_back_
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets.arrays import RANGE_SLACK, as_tensor, faint_range
from fmtool.datasets.data import Data
from fmtool.errors import ArtifactError, AttackError, first_line, warn
from fmtool.models.classifier import predict
from fmtool.models.foreign_code import own_settings
from fmtool.models.unpickling import contents
from fmtool.stages.device_faults import device_errors, halving
from fmtool.stages.inputs import data_header, fitted_data, inputs_of, rows_of
from fmtool.stages.options import DEFAULT_EXECUTION, Execution
from fmtool.stages.prepare import ready_model

# Names, in upper or lower case, of adversarial images beside others; "images" and "x" may be the clean ones.
NAMES = (
    *("adversarial", "adversarials", "adversarial_images", "adversarial_inputs", "adversarial_examples"),
    *("adv", "advs", "adv_complete", "adv_inputs", "adv_images", "adv_examples"),
    *("x_adv", "x_adversarial", "images_adv", "images_adversarial", "perturbed", "perturbed_images", "x_perturbed"),
)
LABELS = ("labels", "label", "y")  # names, in upper or lower case
FEWER = " (for the first N images pass --rows 0:N, as --limit spreads them over the classes)"
COMPARED = 64  # images whose nearest clean image is looked for


@dataclass(frozen=True)
class _Arrays:
    """What is used of a file: images (n, c, h, w), whole numbers (n) that place them, and those that may be their labels."""

    images: Tensor
    index: Tensor | None
    labels: list[Tensor]

    def rounding(self) -> float:
        """How far a pixel in [0, 1] may be from the one that was rounded to it."""
        if self.images.dtype == torch.uint8:
            return 0.501 / 255
        narrow = self.images.is_floating_point() and self.images.dtype.itemsize < torch.float32.itemsize
        return torch.finfo(self.images.dtype).eps / 2 if narrow else RANGE_SLACK


@dataclass(frozen=True)
class _File:
    """The file of adversarial images, read once: standard input can't be read again when the batch is halved."""

    path: str
    content: bytes
    digest: str


@own_settings()
def import_attack(
    model: Artifact,
    data: Data,
    *,
    adversarial: str,
    name: str = IMPORTED,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """The images of a file as an attack on `data`, with predictions, status and distances computed anew.

    adversarial: a .safetensors, .npy, .npz or .pt file of (n, c, h, w) images in [0, 1], as many as `data` has and in its order,
    or with `index` (n), each image's position in its split. name: what the attack is called in tables. Images that the model gets
    wrong before count as not attacked. ArtifactError for images of another number, shape or range.
    """
    execution.refuse("import-attack", "shard", "ranks", "restart", "allow_other_model")
    if not name or not name.isprintable():
        raise AttackError(f"--name {name!r}: expected text that can be printed")
    with device_errors("a smaller --adversarial file"):
        content = files.read_bytes(adversarial)
        given = _File(adversarial, content, hashlib.sha256(content).hexdigest())
    return _judged(model, data, given, name=name, execution=execution)


@halving
def _judged(model: Artifact, data: Data, given: _File, *, name: str, execution: Execution) -> Artifact:
    """The images of the file as an attack; `restart` of the execution changes nothing, as nothing is saved before the end."""
    ready = ready_model(model, execution)
    numbered = data.labels
    data = fitted_data(data, ready.spec, model)
    images = data.pixels()
    arrays = _arrays(given.content, given.path)
    matched = _matched(arrays, data, numbered, given.path)
    _check_order(matched, images, given.path)
    progress = execution.progress
    clean = predict(ready.classifier, images, ready.batch, ready.device, name="clean", progress=progress)
    status = torch.where(clean == data.labels, OK, WRONG_BEFORE)
    if not (status == OK).any():
        raise AttackError(f"the model gets none of the {len(data)} images right: no attack can be judged")
    before = status == WRONG_BEFORE
    moved = int(((matched[before] - images[before]).abs() > arrays.rounding()).flatten(1).any(dim=1).sum())
    if moved:
        warn(f"{moved} images that the model gets wrong without an attack were attacked too: their clean image is kept")
    matched[before] = images[before]
    options: dict[str, Any] = {"name": "adversarial", "progress": progress, "strict": False}
    predictions = predict(ready.classifier, matched, ready.batch, ready.device, **options)
    take_back_(matched, predictions, images, clean, status)
    status[(status == OK) & (predictions == data.labels)] = FAILED
    recorded = {"--name": name, **ready.recorded()}
    entry = {"option": "--adversarial", "name": Path(given.path).name, "split": "", "digest": given.digest}
    history = stage("import-attack", recorded, None, [*inputs_of(model, data), entry])
    header = {"attack": name, "options": {}, "norm": None, **data_header(data, ready.spec)}
    tensors = {
        "images": images,
        "adversarial": matched,
        "clean_predictions": clean,
        "adversarial_predictions": predictions,
        "status": status,
        **rows_of(data),
    }
    return execution.write(Artifact("attack", header, tensors, history))


def _arrays(content: bytes, path: str) -> _Arrays:
    """The arrays of a file that are used; what is left out is told."""
    values = _read(content, path)
    unnamed = isinstance(values, tuple | list)
    if unnamed:
        values = {str(place): value for place, value in enumerate(values)}
    named = {str(key): _array(value) for key, value in values.items()} if isinstance(values, Mapping) else {"": values}
    arrays = {key: value for key, value in named.items() if _has_shape(value)}
    many = [key for key, value in arrays.items() if value.ndim == 4]
    named_so = many if len(many) == 1 else [key for key in many if key.lower() in NAMES]
    if len(named_so) != 1:
        shown = [f"{key} {list(value.shape)}" for key, value in arrays.items()]
        holds = ", ".join([*shown[:SHOWN], *(["..."] if len(shown) > SHOWN else [])]) or "no tensors"
        raise ArtifactError(
            f"{path}: expected images (n, c, h, w), one named adversarial if there are several; it holds {holds}"
        )
    images = as_tensor(arrays[named_so[0]], path)
    index = [key for key in named if key.lower() == "index"]
    if len(index) > 1 or not arrays.keys() >= set(index):
        raise ArtifactError(f"{path}: expected one tensor named index, of whole numbers, or none")
    whole = [key for key, value in arrays.items() if _are_whole(value, len(images)) and key not in index]
    labels = [key for key in whole if unnamed or key.lower() in LABELS]
    if others := sorted(named.keys() - {*named_so, *index, *labels}):
        warn(f"{path}: leaves out {', '.join(others[:SHOWN])}{', ...' if len(others) > SHOWN else ''}")
    return _Arrays(
        images,
        as_tensor(arrays[index[0]], path) if index else None,
        [as_tensor(arrays[key], path).to(torch.int64) for key in labels],
    )


def _array(value: Any) -> Any:
    """A list of whole numbers as an array; anything else as it is."""
    whole = isinstance(value, list | tuple) and value and all(type(one) is int for one in value)
    return np.asarray(value) if whole else value


def _has_shape(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, Tensor) and not value.is_nested)


def _are_whole(values: Any, count: int) -> bool:
    kind = str(values.dtype).removeprefix("torch.")
    return tuple(values.shape) == (count,) and kind.startswith(("int", "uint"))


def _read(content: bytes, path: str) -> Any:
    """Arrays, tensors, or containers of them; nothing that would run code."""
    if content.startswith(b"\x93NUMPY") or _holds_arrays(content):
        return _numpy(content, path)
    return contents(content, path)


def _holds_arrays(content: bytes) -> bool:
    """Whether this is an .npz archive; of a zip that can't be opened, `contents` says what is wrong."""
    if not content.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(entry.endswith(".npy") for entry in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _numpy(content: bytes, path: str) -> Any:
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        return dict(loaded) if isinstance(loaded, Mapping) else loaded
    except Exception as error:  # damaged bytes may cause any exception
        raise ArtifactError(f"{path}: can't be read as NumPy's arrays ({first_line(error)})") from None


def _matched(given: _Arrays, data: Data, numbered: Tensor, path: str) -> Tensor:
    """(n, c, h, w) float32 in [0, 1], in the data's order. numbered: the labels (n) in the data's own order of classes."""
    images = given.images
    shape = tuple(data.images.shape)
    if (found := faint_range(images)) is not None:
        raise ArtifactError(
            f"{path}: images are uint8 from {found[0]} to {found[1]}, expected 0 to 255, or float32 in [0, 1]: "
            "divide them by the value of white, and store them as float32"
        )
    rows: Any = slice(None)
    if given.index is not None:
        rows = _rows_by_index(given.index, len(images), data, path)
        images = images[rows]
    if tuple(images.shape) != shape:
        raise ArtifactError(
            f"{path}: images are {list(images.shape)}, expected those of {data.name}, {list(shape)}"
            f"{FEWER if len(images) < len(data) else ''}"
        )
    strange = [int((labels[rows] != own).sum()) for labels in given.labels for own in (data.labels, numbered)]
    if fewest := min(strange, default=0):
        warn(f"{path}: {fewest} of {len(data)} labels are not those of {data.name}: is the order the same?")
    if images.dtype == torch.uint8:
        warn(f"{path}: images have 8 bits a pixel: attacks that barely succeed may not survive the rounding")
        return images.float() / 255
    if images.dtype != torch.float32 and images.dtype != torch.float64:
        if not images.is_floating_point():
            raise ArtifactError(f"{path}: images are {images.dtype}, expected float32 in [0, 1], or uint8")
        warn(f"{path}: images are {images.dtype}: attacks that barely succeed may not survive the rounding")
    low, high = (float(value) for value in images.aminmax())
    if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):
        hint = (
            ": undo the normalisation, or clip them" if low < 0 else ": divide them by 255" if 2 < high <= 255 else ""
        )
        raise ArtifactError(f"{path}: images range from {low:.6g} to {high:.6g}, expected [0, 1]{hint}")
    return images.float().clamp(0, 1).contiguous()


def _rows_by_index(index: Tensor, count: int, data: Data, path: str) -> list[int]:
    """For each image of `data` its row in the file, which has `count`."""
    if index.ndim != 1 or len(index) != count or index.is_floating_point():
        raise ArtifactError(f"{path}: index is {list(index.shape)}, expected a whole number for each of {count} images")
    if "+" in data.split:
        raise ArtifactError(
            f"{path}: index counts the images of one split, and {data.name} is of {data.split}: import one split at a time"
        )
    rows = {position: row for row, position in enumerate(index.tolist())}
    if len(rows) < len(index):
        raise ArtifactError(f"{path}: index contains an image twice")
    missing = [position for position in data.index.tolist() if position not in rows]
    if missing:
        raise ArtifactError(f"{path}: has no image for {len(missing)} of {data.name}, first index {missing[0]}{FEWER}")
    if len(rows) > len(data):
        warn(f"{path}: {len(rows) - len(data)} images are not in {data.name} as loaded and are ignored")
    return [rows[position] for position in data.index.tolist()]


def _check_order(adversarial: Tensor, images: Tensor, path: str) -> None:
    """Warn where most adversarial images are nearer to another clean image than to their own, or all are clean ones."""
    if torch.equal(adversarial, images):
        warn(f"{path}: no image differs from its clean one: are these the adversarial images?")
    rows = torch.arange(0, len(images), math.ceil(len(images) / COMPARED))
    distances = torch.cdist(adversarial[rows].flatten(1), images.flatten(1))
    own = distances[torch.arange(len(rows)), rows]
    others = int((distances.min(dim=1).values < own).sum())
    if 2 * others > len(rows):
        warn(
            f"{path}: {others} of {len(rows)} images are nearer to another image than to their own: is the order the same{FEWER}?"
        )
