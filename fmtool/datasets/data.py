"""A name or a path becomes images and labels.

`--data` takes a name of `DATASETS`, a folder or zip with one folder of images a class, or a safetensors file with `images`
and `labels`; a suffix `:train`, `:test` or `:all` names the split. Importing this module needs neither torch nor torchvision.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fmtool.datasets.from_path import Raw, from_path
from fmtool.datasets.registry import DATASETS
from fmtool.datasets.rows import row_keys, spread, to_float
from fmtool.errors import DataError, unknown

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "test", "all")
RANGE_SLACK = 1e-6  # undoing a normalisation leaves [0, 1] by some 3e-8: clamped; anything beyond this is an error


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


def load(spec: str, *, default: str = "test", size: int | None = None, limit: int | None = None) -> Data:
    """Load the images that `spec` names, SOURCE or SOURCE:SPLIT.

    default: the split where none is named ("train" or "test"; a source without splits is one whole). size: side in pixels
    that every image is squeezed to. limit: at most so many images, spread evenly over the classes.
    Raises DataError for an unknown name, an unreadable source, labels out of range or pixels outside [0, 1].
    """
    source, split = _split_of(spec)
    raw = _named(source) or from_path(source)
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


def _gather(raw: Raw, chosen: list[str], size: int | None, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
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


def _named(source: str) -> Raw | None:
    if source in DATASETS:
        return DATASETS[source].load()
    if not os.path.exists(source):
        if "/" in source or "." in source:
            raise DataError(f"{source}: no such file or folder")
        raise DataError(
            unknown("data set", source, DATASETS) + ", or the path of a folder, a zip or a safetensors file"
        )
    return None
