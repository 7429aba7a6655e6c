"""A name or a path becomes images and labels.

`--data` takes a name of `DATASETS`, a folder or zip with one folder of images a class, or a safetensors file with `images`
and `labels`; a suffix `:train`, `:test` or `:all` names the split. Importing this module needs neither torch nor torchvision.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fmtool import artifacts, image_files
from fmtool.errors import DataError, unknown

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "test", "all")
FOLDER_SPLITS = {"train": "train", "test": "test", "val": "test"}  # a folder's name -> the split it holds
RANGE_SLACK = 1e-6  # undoing a normalisation leaves [0, 1] by some 3e-8: clamped; anything beyond this is an error
DIGITS_TEST_EVERY = 4  # every fourth image of the digits is a test image


@dataclass(frozen=True)
class Data:
    """Labelled images of one split, on the CPU.

    images: (n, c, h, w), uint8 or float32 in [0, 1]. labels, index, key: (n) int64: the class, the position in the whole
    split, and the first 8 bytes of the sha256 of the image's pixels. class_names: empty where the source names none.
    digest: sha256 over images and labels. size, limit: what `load` was told.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    key: Tensor
    class_names: tuple[str, ...]
    name: str
    split: str
    digest: str
    size: int | None = None
    limit: int | None = None

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def pixels(self) -> Tensor:
        """The images as float32 in [0, 1]."""
        return to_float(self.images)

    def record(self) -> dict[str, str]:
        """What a header says of this data."""
        return {"name": self.name, "split": self.split}


@dataclass(frozen=True)
class _Raw:
    """One source before splits, sizes and limits: split -> (images or encoded files, labels)."""

    splits: dict[str, tuple[Any, Any]]
    class_names: tuple[str, ...]
    decode: Callable[[Any, int | None], Tensor] | None = None  # for sources whose images are files


def load(spec: str, *, default: str = "test", size: int | None = None, limit: int | None = None) -> Data:
    """Load the images that `spec` names, SOURCE or SOURCE:SPLIT.

    default: the split where none is named ("train" or "test"; a source without splits is one whole). size: side in pixels
    that every image is squeezed to. limit: at most so many images, spread evenly over the classes.
    Raises DataError for an unknown name, an unreadable source, labels out of range or pixels outside [0, 1].
    """
    source, split = _split_of(spec)
    raw = _named(source) or _from_path(source)
    if "" in raw.splits:
        if split is not None:
            raise DataError(f"{spec}: {source} has no splits, expected it without ':{split}'")
        chosen = [""]
    else:
        chosen = _choose(split or default, raw.splits, spec)
    images, labels, index = _gather(raw, chosen, size, limit)
    _check(images, labels, raw.class_names, source)
    if images.is_floating_point():
        images = images.float().clamp(0, 1)
    name = source if source in DATASETS else PurePosixPath(source).name
    digest = hashlib.sha256(images.contiguous().numpy().data)
    digest.update(labels.numpy().data)
    split = "+".join(chosen) or "whole"
    found = Data(images, labels, index, row_keys(images), raw.class_names, name, split, digest.hexdigest(), size, limit)
    if not len(found):
        raise DataError(f"{spec}: holds no images")
    return found


def subset(data: Data, limit: int | None) -> Data:
    """At most `limit` images, spread evenly over the classes; key and index stay."""
    rows = spread(data.labels, limit)
    return replace(data, images=data.images[rows], labels=data.labels[rows], index=data.index[rows], key=data.key[rows])


def to_float(images: Tensor) -> Tensor:
    """(n, c, h, w) uint8 or float to float32 in [0, 1]."""
    import torch

    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def row_keys(images: Tensor) -> Tensor:
    """(n) int64: the first 8 bytes, little endian, of the sha256 of each image's bytes."""
    import torch

    keys = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images.contiguous().numpy()]
    return torch.tensor([int.from_bytes(key, "little", signed=True) for key in keys], dtype=torch.int64)


def spread(labels: Tensor, limit: int | None) -> Tensor:
    """(m) int64 rows, ascending: at most `limit`, taken from the classes in turn, the first of each class first."""
    import torch

    n = len(labels)
    if limit is None or limit >= n:
        return torch.arange(n)
    if limit < 1:
        raise DataError(f"--limit is {limit}, expected at least 1")
    rank = torch.zeros(n, dtype=torch.int64)
    for label in torch.unique(labels):
        rows = (labels == label).nonzero().flatten()
        rank[rows] = torch.arange(len(rows))
    order = torch.argsort(rank * (int(labels.max()) + 1) + labels, stable=True)
    return order[:limit].sort().values


def cache_folder() -> Path:
    """Where downloads are kept: $FMTOOL_CACHE, else fmtool below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("FMTOOL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmtool"


def _split_of(spec: str) -> tuple[str, str | None]:
    source, colon, split = spec.rpartition(":")
    if not colon or os.path.exists(spec):  # which a folder that can't be entered doesn't trouble
        return spec, None
    if split not in SPLITS:
        raise DataError(unknown("split", split, SPLITS) + f" in --data {spec}")
    return source, split


def _choose(split: str, splits: dict[str, Any], spec: str) -> list[str]:
    wanted = ["test", "train"] if split == "all" else [split]
    found = [name for name in wanted if name in splits]
    if not found:
        raise DataError(f"{spec}: has no split {split!r}, only {', '.join(sorted(splits))}")
    return found


def _gather(raw: _Raw, chosen: list[str], size: int | None, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Join splits, choose the rows before anything is decoded, then decode and squeeze."""
    import torch

    labels = torch.cat([torch.as_tensor(raw.splits[name][1], dtype=torch.int64) for name in chosen])
    index = torch.cat([torch.arange(len(raw.splits[name][1])) for name in chosen])
    rows = spread(labels, limit)
    if raw.decode is not None:
        files = [file for name in chosen for file in raw.splits[name][0]]
        images = raw.decode([files[row] for row in rows.tolist()], size)
    else:
        images = torch.cat([raw.splits[name][0] for name in chosen])[rows]
        if size is not None and images.shape[-2:] != (size, size):
            images = _squeeze(images, size)
    return images, labels[rows], index[rows]


def _squeeze(images: Tensor, size: int) -> Tensor:
    from torchvision.transforms.v2.functional import resize

    squeezed: Tensor = resize(images, [size, size], antialias=True)
    return squeezed


def _check(images: Tensor, labels: Tensor, class_names: tuple[str, ...], source: str) -> None:
    import torch

    if images.ndim != 4 or (images.dtype != torch.uint8 and not images.is_floating_point()):
        raise DataError(
            f"{source}: images are {images.dtype} {list(images.shape)}, expected uint8 or float (n, channels, height, width)"
        )
    top = len(class_names) or torch.iinfo(torch.int32).max
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= top):
        raise DataError(
            f"{source}: labels reach from {int(labels.min())} to {int(labels.max())}, expected 0 to {top - 1}"
        )
    if images.is_floating_point() and images.numel():
        low, high = float(images.min()), float(images.max())
        if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # so written that NaN fails too
            raise DataError(f"{source}: pixels reach from {low:.6g} to {high:.6g}, expected [0, 1]")


def _named(source: str) -> _Raw | None:
    if source in DATASETS:
        return DATASETS[source].load()
    if not os.path.exists(source):
        if "/" in source or "." in source:
            raise DataError(f"{source}: no such file or folder")
        raise DataError(
            unknown("data set", source, DATASETS) + ", or the path of a folder, a zip or a safetensors file"
        )
    return None


def _digits() -> _Raw:
    """1,797 scans of handwritten digits, 8x8 in 17 grey levels, embedded in scikit-learn."""
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(labels).long()
    test = torch.arange(len(labels)) % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    splits = {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}
    return _Raw(splits, tuple("0123456789"))


def _cifar10() -> _Raw:
    import torch
    from torchvision.datasets import CIFAR10

    root = cache_folder() / "cifar10"
    _announce(root / "cifar-10-batches-py", CIFAR10.url, "170 MB")
    try:
        parts = {name: CIFAR10(str(root), train=name == "train", download=True) for name in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise DataError(f"cifar10 can't be downloaded: {error}") from None
    splits = {
        name: (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), part.targets)
        for name, part in parts.items()
    }
    return _Raw(splits, tuple(parts["test"].classes))


def _imagenette() -> _Raw:
    from torchvision.datasets import Imagenette

    root = cache_folder() / "imagenette"
    _announce(root / "imagenette2", "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz", "1.5 GB")
    try:
        # torchvision raises when asked to download what is there already
        Imagenette(str(root), split="train", download=not (root / "imagenette2").is_dir())
    except (OSError, RuntimeError) as error:
        raise DataError(f"imagenette can't be downloaded: {error}") from None
    return _from_path(str(root / "imagenette2"))


def _announce(target: Path, address: str, size: str) -> None:
    if not target.exists():
        print(f"downloading {address} ({size}) to {target.parent}", file=sys.stderr)


@dataclass(frozen=True)
class Source:
    """A data set known by name."""

    load: Callable[[], _Raw]
    summary: str
    augment: str  # what `train-model` does to a batch unless told otherwise


DATASETS: dict[str, Source] = {
    "digits": Source(_digits, "8x8 handwritten digits, embedded", "none"),
    "cifar10": Source(_cifar10, "CIFAR-10, 32x32, downloaded by torchvision", "flip-crop"),
    "imagenette": Source(_imagenette, "Imagenette, mixed sizes (needs --size), downloaded by torchvision", "flip-crop"),
}


def _from_path(source: str) -> _Raw:
    path = Path(source)
    if os.path.isdir(path):
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return _from_files(source, names, lambda name: (path / name).read_bytes())
    if path.suffix.lower() == ".zip":
        return _from_files(source, *image_files.open_zip(source))
    return _from_safetensors(source)


def _from_files(source: str, names: list[str], read: Callable[[str], bytes]) -> _Raw:
    """Folders SPLIT/CLASS/FILE or CLASS/FILE become splits; classes and files in byte order."""
    images = sorted((name for name in names if image_files.is_image(PurePosixPath(name))), key=os.fsencode)
    tops = {PurePosixPath(name).parts[0] for name in images}
    with_splits = bool(tops) and tops <= FOLDER_SPLITS.keys()
    depth = 1 if with_splits else 0
    images = [name for name in images if len(PurePosixPath(name).parts) == depth + 2]
    if not images:
        raise DataError(f"{source}: holds no images, expected one folder of images a class")
    class_of = {name: PurePosixPath(name).parts[depth] for name in images}
    class_names = tuple(sorted(set(class_of.values()), key=os.fsencode))
    number = {name: row for row, name in enumerate(class_names)}
    splits: dict[str, tuple[list[str], list[int]]] = {}
    for name in images:
        files, labels = splits.setdefault(FOLDER_SPLITS[PurePosixPath(name).parts[0]] if with_splits else "", ([], []))
        files.append(name)
        labels.append(number[class_of[name]])

    def decode(files: list[str], size: int | None) -> Tensor:
        return image_files.decode(read, files, source, size)

    # a folder's name may hold bytes that are not UTF-8, which could not be printed
    return _Raw(splits, tuple(os.fsencode(name).decode(errors="replace") for name in class_names), decode)


def _from_safetensors(source: str) -> _Raw:
    """A file with `images` and `labels` and, in its header, a JSON list of class names; without that, none are known."""
    import torch

    data = artifacts.read_bytes(source)
    meta = artifacts.parse_header(data, source).get("__metadata__") or {}
    tensors = artifacts.tensors_in(data, source)
    missing = [name for name in ("images", "labels") if name not in tensors]
    if missing:
        raise DataError(f"{source}: has no tensor {' and '.join(missing)}, expected images (n,c,h,w) and labels (n)")
    images, labels = tensors["images"], tensors["labels"]
    if labels.ndim != 1 or labels.dtype != torch.int64 or images.ndim < 1 or len(labels) != len(images):
        raise DataError(
            f"{source}: labels are {labels.dtype} {list(labels.shape)}, expected int64 [{images.shape[0] if images.ndim else 0}]"
        )
    try:
        names = json.loads(meta["class_names"]) if "class_names" in meta else None
        "".join(names or []).encode()  # half of a surrogate pair could be neither printed nor stored
    except (ValueError, TypeError, RecursionError):
        names = []
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise DataError(f"{source}: class_names in its header is not a JSON list of names")
    return _Raw({"": (images, labels)}, tuple(names or ()))
