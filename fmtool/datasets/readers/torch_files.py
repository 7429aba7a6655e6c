"""Files of torch.save: a dict, a tuple or a TensorDataset of tensors. Nothing else is unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmtool.artifacts.files import load_pickled
from fmtool.datasets.arrays import from_names
from fmtool.datasets.source import WHOLE, Source, Split
from fmtool.datasets.splits import split_named
from fmtool.errors import DataError

SUFFIXES = (".pt", ".pth")


def recognises(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read(path: Path, name: str) -> Source:
    import torch
    from torch.utils.data import TensorDataset

    with torch.serialization.safe_globals([TensorDataset]):
        content = load_pickled(path)
    if isinstance(content, Mapping):
        return from_names(_flat(content), name)
    splits = {WHOLE: _pair(content, name)}
    return Source(splits)


def _flat(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries, with those of a split's own dict or pair under compound names such as images_train."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if split_named(str(key)) and isinstance(value, Mapping):
            flat.update({f"{inner}_{key}": one for inner, one in value.items()})
        elif split_named(str(key)) and _two_tensors(value):
            pair = _pair(value, str(key))
            flat.update({f"images_{key}": pair.images, f"labels_{key}": pair.labels})
        else:
            flat[str(key)] = value
    return flat


def _two_tensors(content: Any) -> Sequence[Any]:
    """The tensors of a pair or a TensorDataset; empty if it is neither, or holds others."""
    tensors = getattr(content, "tensors", content)
    two = isinstance(tensors, tuple | list) and len(tensors) == 2 and all(hasattr(one, "ndim") for one in tensors)
    return tensors if two else ()


def _pair(content: Any, name: str) -> Split:
    """Images and labels of a tuple, a list or a TensorDataset."""
    tensors = _two_tensors(content)
    if not tensors:
        raise DataError(
            f"{name}: holds a {type(content).__name__}, expected a dict, or a pair of tensors: images and labels"
        )
    images, labels = tensors if tensors[0].ndim > 2 else reversed(tensors)
    if not images.ndim or not labels.ndim or len(images) != len(labels):
        raise DataError(
            f"{name}: holds tensors of {list(images.shape)} and {list(labels.shape)}, expected images and labels"
        )
    return Split(images, labels)
