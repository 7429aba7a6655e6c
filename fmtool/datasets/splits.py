"""The three splits, their other names, and which one a stage takes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

from fmtool.datasets.source import WHOLE
from fmtool.errors import DataError, unknown, warn

TRAIN, VAL, TEST, ALL = "train", "val", "test", "all"
SPLITS = (TRAIN, VAL, TEST)
SUFFIXES = (*SPLITS, ALL)
ORDER_OF_ALL = (TEST, VAL, TRAIN)
# Their names in folders, arrays and part files, in upper or lower case.
OTHER_NAMES = {
    "train": TRAIN, "training": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL,
    "test": TEST, "testing": TEST,
}  # fmt: skip


def split_named(name: str) -> str | None:
    """The split that a folder or file of this name holds, or None."""
    return OTHER_NAMES.get(name.lower())


def split_in(name: str) -> tuple[str | None, str]:
    """The split in a compound name such as `x_train`, `test_images` or `Xtest`, and the rest of the name."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    if len(words) == 1:
        glued = re.fullmatch(rf"(?P<a>x|y)?(?P<split>{'|'.join(OTHER_NAMES)})(?P<b>x|y)?", words[0])
        if glued and (glued["a"] or glued["b"]):
            words = [part for part in (glued["a"], glued["split"], glued["b"]) if part]
    splits = [word for word in words if word in OTHER_NAMES]
    if len(splits) != 1:
        return None, "_".join(words)
    return OTHER_NAMES[splits[0]], "_".join(word for word in words if word not in OTHER_NAMES)


def parse_spec(spec: str) -> tuple[str, str | None]:
    """SOURCE or SOURCE:SPLIT as source and split. DataError for an unknown split."""
    source, colon, split = spec.rpartition(":")
    if not colon or os.path.exists(spec):  # an inaccessible folder exists too
        return spec, None
    if split not in SUFFIXES:
        raise DataError(unknown("split", split, SUFFIXES) + f" in --data {spec}")
    return source, split


def choose(
    split: str | None, default: str, there: Collection[str], spec: str, left_out: Sequence[str] = ()
) -> list[str]:
    """The splits to read, in the order of their images.

    split: as the user named it, or None for `default`; without a test split, the validation split stands in. left_out: lines
    that may tell why a split isn't there.
    """
    if WHOLE in there:
        if split is not None:
            raise DataError(f"{spec}: has no splits, expected it without ':{split}'")
        return [WHOLE]
    if split == ALL:
        return [name for name in ORDER_OF_ALL if name in there]
    wanted = split or default
    if split is None and wanted == TEST and TEST not in there and VAL in there:
        warn(f"{spec}: has no test split: using val")
        wanted = VAL
    if wanted not in there:
        why = "".join(f"; left out {line}" for line in left_out)
        raise DataError(f"{spec}: has no split {wanted!r}, only {', '.join(sorted(there))}{why}")
    return [wanted]
