"""A safetensors file with `images` and `labels` and, in its header, a JSON list of class names."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from fmtool.artifacts.files import read_bytes
from fmtool.artifacts.format import LARGEST_HEADER, METADATA_KEY, parse_header, tensors_in
from fmtool.datasets.arrays import IMAGE_NAMES, from_names
from fmtool.datasets.source import Source
from fmtool.datasets.splits import split_in
from fmtool.errors import DataError, FmtoolError

SUFFIX = ".safetensors"


def recognises(path: Path) -> bool:
    """Every file: this is the last reader, whose error describes the file."""
    return True


def holds_images(path: Path) -> bool:
    """Whether its header is that of a file of images which fmtool didn't make."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= LARGEST_HEADER else {}
    except (OSError, struct.error, ValueError, RecursionError):
        return False
    if not isinstance(header, dict) or METADATA_KEY in (header.get("__metadata__") or {}):
        return False
    return any(split_in(name)[1] in IMAGE_NAMES for name in header)


def read(path: Path, name: str) -> Source:
    from fmtool.datasets.readers.registry import SHORT

    data = read_bytes(str(path))
    try:
        meta = parse_header(data, name).get("__metadata__") or {}
        tensors = tensors_in(data, name)
    except FmtoolError as error:
        if path.suffix.lower() in (SUFFIX, ""):
            raise
        raise DataError(f"{error}; formats that can be read: {SHORT}") from None
    return from_names(tensors, name, _class_names(meta, name))


def _class_names(meta: dict[str, Any], name: str) -> tuple[str, ...]:
    if "class_names" not in meta:
        return ()
    try:
        names = json.loads(meta["class_names"])
        "".join(names).encode()  # half of a surrogate pair could be neither printed nor stored
    except (ValueError, TypeError, RecursionError):
        names = None
    if not (isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        raise DataError(f"{name}: class_names in its header is not a JSON list of names")
    return tuple(names)
