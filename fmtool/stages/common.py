"""What the stages share: a classifier ready to run, and the checks that inputs belong together."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmtool import workers
from fmtool.artifacts import Artifact, Rows
from fmtool.datasets import Data
from fmtool.errors import ArtifactError, DataError, FmtoolWarning
from fmtool.models.checkpoints import Specification, from_artifact
from fmtool.models.classifier import Classifier, batch_size, pick_device, prepare

Progress = Callable[[str, int, int], None]
ROWS = ("labels", "key", "index", "source")  # what every file with one row an image says of it


MOST_ROWS = 2**40  # of a job, so that no arithmetic on a strange header overflows
ROWS_OF_FILE = 256  # rows of a file looked at together


@dataclass(frozen=True)
class Ready:
    """A classifier on its device, folded and frozen, with its specification and the batch that every stage runs it at."""

    classifier: Classifier
    spec: Specification
    device: torch.device
    batch: int


def ready(model: Artifact, device: str, batch: int | None, factory: str | None) -> Ready:
    """Load a `model` artifact for attacking and mask fitting."""
    where = pick_device(device)
    classifier, spec = from_artifact(model, factory=factory)
    return Ready(
        prepare(classifier, where, spec.input_shape), spec, where, batch or batch_size(spec.input_shape, where)
    )


def code_of(classifier: Classifier, spec: Specification) -> dict[str, str]:
    """What tells whether somebody's factory still builds the same network: a digest of its logits on two images."""
    if ":" not in spec.architecture:
        return {}
    where = next((tensor.device for tensor in [*classifier.parameters(), *classifier.buffers()]), torch.device("cpu"))
    images = torch.rand(2, *spec.input_shape, generator=torch.Generator().manual_seed(0)).to(where)

    @torch.no_grad()
    def digest() -> str:
        return hashlib.sha256(classifier(images).float().cpu().contiguous().numpy().data).hexdigest()

    with workers.pool(where, 1) as pool, torch.random.fork_rng([where] if where.type == "cuda" else []):
        found, again = pool.submit(digest).result(), pool.submit(digest).result()
    return {"network": found} if found == again else {}  # one that draws random numbers can't be told from another


def check_data(data: Data, spec: Specification) -> None:
    """The images have the model's input shape, and the classes are as many as its own."""
    check_shape(data.images, spec, data.name)
    classes = len(spec.class_names)
    if data.class_names and len(data.class_names) != classes:
        raise DataError(f"{data.name}: has {len(data.class_names)} classes, the model {classes}")
    if len(data) and int(data.labels.max()) >= classes:
        raise DataError(f"{data.name}: labels reach to {int(data.labels.max())}, the model has {classes} classes")


def check_shape(images: Rows, spec: Specification, name: str) -> None:
    """(n, c, h, w) images of the model's input shape."""
    if tuple(images.shape[1:]) != tuple(spec.input_shape):
        raise DataError(f"{name}: images are {_shape(images.shape[1:])}, the model takes {_shape(spec.input_shape)}")


def check_attack(
    attack: Artifact, model: Artifact, spec: Specification, allow_other_model: bool, *, adaptive: bool = False
) -> None:
    """The attack was made on this model, its images fit, and its numbers are what the kind promises.

    adaptive: take also an attack on the two-pass classifier.
    """
    if attack.header.get("defense") and not adaptive:
        raise ArtifactError(f"{attack}: was made against the two-pass defence: its predictions are not the model's")
    check_whole(attack)
    check_same_model(attack, model, allow_other_model)
    check_shape(attack.rows("images"), spec, str(attack))
    classes = len(spec.class_names)
    if len(attack.header["class_names"]) != classes:
        raise ArtifactError(f"{attack}: has {len(attack.header['class_names'])} classes, the model {classes}")
    for name in ("labels", "clean_predictions", "adversarial_predictions"):
        check_range(attack[name], classes, f"{attack}: {name}")
    check_range(attack["status"], 3, f"{attack}: status")
    for name in ("images", "adversarial"):
        rows = attack.rows(name)
        for start in range(0, len(rows), ROWS_OF_FILE):
            low, high = (float(v) for v in rows[start : start + ROWS_OF_FILE].aminmax())
            if not (low >= 0 and high <= 1):
                raise ArtifactError(f"{attack}: {name} reach from {low:.6g} to {high:.6g}, expected [0, 1]")


def shard_of(file: Artifact) -> tuple[int, int, int]:
    """The number of a shard, of how many, and how many rows they have together."""
    shard = file.header["shard"]
    found = [shard.get(name) for name in ("number", "of", "rows")] if isinstance(shard, dict) else []
    known = [value for value in found if isinstance(value, int)]
    number, of, rows = known if len(known) == 3 else (0, 0, 0)
    if not 1 <= number <= min(of, rows) or max(of, rows) > MOST_ROWS:
        raise ArtifactError(f"{file}: its header names a shard that can't be")
    return number, of, rows


def check_whole(file: Artifact) -> None:
    """Refuse a part of a job: what is made of it would pass for the whole one's."""
    if "shard" in file.header:
        number, of, _ = shard_of(file)
        raise ArtifactError(
            f"{file}: is shard {number} of {of}: expected the whole, which fmtool merge makes of its shards"
        )


def check_same_model(other: Artifact, model: Artifact, allow: bool) -> None:
    """Refuse a file that was made with another model, unless told otherwise."""
    made_with = other.input_digest("model")
    if made_with != model.digest and not allow:
        raise ArtifactError(
            f"{other}: was made with model {str(made_with)[:12]}, not with {model} ({model.digest[:12]}); "
            "--allow-other-model takes it all the same"
        )


def check_range(values: Tensor, count: int, name: str) -> None:
    """(n) int64 within [0, count)."""
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < count:
        raise ArtifactError(f"{name} reach from {int(values.min())} to {int(values.max())}, expected 0 to {count - 1}")


def check_unit(values: Tensor, name: str) -> None:
    """Finite and within [0, 1]."""
    if values.numel() and not (float(values.min()) >= 0 and float(values.max()) <= 1):
        raise ArtifactError(f"{name}: entries lie outside [0, 1] or are not finite")


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


def join(files: Sequence[Artifact]) -> list[Tensor]:
    """Row numbers, one (m) int64 tensor a file, of the images that all files share, by (key, index), in the first one's order."""
    places = []
    for file in files:
        names = list(zip(file["key"].tolist(), file["index"].tolist(), strict=True))
        place = {name: row for row, name in enumerate(names)}
        if len(place) != len(names):
            raise ArtifactError(f"{file}: holds an image twice (key and index are the same)")
        places.append(place)
    shared = [name for name in places[0] if all(name in place for place in places[1:])]
    if not shared:
        raise ArtifactError(f"{files[0]} and {files[1]} share no image")
    return [torch.tensor([place[name] for name in shared]) for place in places]


def warn(message: str) -> None:
    """A line for the reader of a result that stands."""
    warnings.warn(FmtoolWarning(message), stacklevel=3)


def inputs_of(model: Artifact, source: Artifact | Data) -> list[Any]:
    """What `artifacts.stage` takes for a model and a file or a data set."""
    return [model, data_input(source) if isinstance(source, Data) else source]


def data_input(data: Data) -> dict[str, Any]:
    """A data set as an input in a history, with what chose and squeezed its images."""
    chosen = {name: value for name, value in (("size", data.size), ("limit", data.limit)) if value is not None}
    return {**data.record(), **chosen, "digest": data.digest}


def data_header(source: Artifact | Data, spec: Specification) -> dict[str, Any]:
    """The header fields that say which images a file is about; classes by the data's names, if it has any."""
    if isinstance(source, Data):
        return {"data": [source.record()], "class_names": list(source.class_names or spec.class_names)}
    return {name: source.header[name] for name in ("data", "class_names")}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
