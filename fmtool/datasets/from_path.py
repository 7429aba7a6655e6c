"""Images and labels from a folder, a zip or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.files import read_bytes
from fmtool.artifacts.format import parse_header, tensors_in
from fmtool.datasets import image_files
from fmtool.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
FOLDER_SPLITS = {"train": "train", "test": "test", "val": "test"}  # a folder's name -> the split it holds


@dataclass(frozen=True)
class Raw:
    """One source before splits, sizes and limits: split -> (images or encoded files, labels)."""

    splits: dict[str, tuple[Any, Any]]
    class_names: tuple[str, ...]
    decode: Callable[[Any, int | None], Tensor] | None = None  # for sources whose images are files


def from_path(source: str) -> Raw:
    path = Path(source)
    if os.path.isdir(path):
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return _from_files(source, names, lambda name: (path / name).read_bytes())
    if path.suffix.lower() == ".zip":
        return _from_files(source, *image_files.open_zip(source))
    return _from_safetensors(source)


def _from_files(source: str, names: list[str], read: Callable[[str], bytes]) -> Raw:
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
    return Raw(splits, tuple(os.fsencode(name).decode(errors="replace") for name in class_names), decode)


def _from_safetensors(source: str) -> Raw:
    """A file with `images` and `labels` and, in its header, a JSON list of class names; without that, none are known."""
    import torch

    data = read_bytes(source)
    meta = parse_header(data, source).get("__metadata__") or {}
    tensors = tensors_in(data, source)
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
    return Raw({"": (images, labels)}, tuple(names or ()))
