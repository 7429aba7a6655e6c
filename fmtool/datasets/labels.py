"""Labels of any integer type, one-hot rows or names become class numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fmtool.datasets.arrays import as_tensor
from fmtool.datasets.source import Source
from fmtool.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in numbering order: whole numbers by value (2 before 10), all others as torchvision sorts them."""
    different = set(names)
    whole = all(name.isascii() and name.isdigit() for name in different)
    return tuple(sorted(different, key=lambda name: (int(name), name) if whole else name))


def numbered(source: Source, name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Labels (n) int64 of every split, and the class names; DataError naming the source `name`."""
    labels_of = {split: _values(part.labels, len(part), name) for split, part in source.splits.items()}
    named = {split: values for split, values in labels_of.items() if isinstance(values, list)}
    if not named:
        numbers = {split: values for split, values in labels_of.items() if not isinstance(values, list)}
        return numbers, source.class_names
    if len(named) < len(labels_of):
        raise DataError(f"{name}: labels are names in one split and numbers in another")
    class_names = source.class_names or in_order(one for values in named.values() for one in values)
    return {split: _by_name(values, class_names, name) for split, values in named.items()}, class_names


def _by_name(values: Sequence[str], class_names: Sequence[str], name: str) -> Tensor:
    import torch

    number = {class_name: row for row, class_name in enumerate(class_names)}
    strange = next((value for value in values if value not in number), None)
    if strange is not None:
        raise DataError(f"{name}: label {strange!r} is not one of its class names")
    twice = next((one for one in class_names if class_names.count(one) > 1 and one in values), None)
    if twice is not None:
        raise DataError(f"{name}: several of its classes are called {twice!r}: expected labels that are numbers")
    return torch.tensor([number[value] for value in values], dtype=torch.int64)


def _values(labels: Any, n: int, name: str) -> Tensor | list[str]:
    """(n) int64 or n names."""
    import numpy as np
    import torch

    if isinstance(labels, torch.Tensor):
        labels = as_tensor(labels, name)
        labels = (labels.float() if labels.is_floating_point() else labels).numpy()
    values = np.asarray(labels)
    if values.dtype.kind in "USO":
        return _names(values, n, name)
    what = f"{name}: labels are {values.dtype.name} {list(values.shape)}, expected {n} integers, one-hot rows or names"
    if not values.ndim or len(values) != n or values.dtype.kind not in "biuf":
        raise DataError(what)
    if values.ndim == 2 and values.shape[1] > 1:
        if not (np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all()):
            raise DataError(f"{what}: these rows are not one-hot")
        values = values.argmax(1)
    if values.dtype.kind == "f" or values.size != n:
        raise DataError(what)
    if n and int(values.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name}: labels go up to {int(values.max())}")
    return torch.from_numpy(values.reshape(n).astype(np.int64))


def _names(array: Any, n: int, name: str) -> list[str]:
    values = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in array.flatten().tolist()]
    if len(values) != n or not all(isinstance(one, str) for one in values):
        raise DataError(f"{name}: labels are {list(array.shape)} objects, expected {n} integers, one-hot rows or names")
    return [printable_name(one) for one in values]


def printable_name(name: str) -> str:
    """A name of a class or folder without bytes that are not UTF-8, which could be neither printed nor stored."""
    return name.encode(errors="surrogateescape" if not _has_pair(name) else "replace").decode(errors="replace")


def _has_pair(name: str) -> bool:
    """Whether it holds half of a surrogate pair that stands for no byte."""
    return any("\ud800" <= one <= "\udfff" and not "\udc80" <= one <= "\udcff" for one in name)
