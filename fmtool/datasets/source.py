"""The result of a reader: the splits of a source before images are selected, decoded or converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WHOLE = ""  # the only split of a source that has none


@dataclass(frozen=True)
class Encoded:
    """Images in files, not yet decoded: their names, and a function that returns the bytes of one."""

    names: Sequence[str]
    read: Callable[[str], bytes]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Split:
    """Images and labels, row by row.

    images: `Encoded`, or an array or tensor (n, ...) of any layout and number type. labels: an array, tensor or sequence (n) of
    integers or of class names, or one-hot rows (n, classes).
    """

    images: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Source:
    """One source as its reader interpreted it.

    splits: "train", "val" and "test", those that exist, or only `WHOLE`. class_names: empty if the source has none.
    left_out: a line for each kind of thing that was not used, and why.
    """

    splits: Mapping[str, Split]
    class_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    format: str = field(default="", compare=False)  # filled in by the table of readers
