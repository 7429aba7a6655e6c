"""MNIST's idx files (train-images-idx3-ubyte and the like), gzipped or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import Any

from fmtool.datasets.source import WHOLE, Source, Split
from fmtool.datasets.splits import TEST, TRAIN
from fmtool.errors import DataError

NAME = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)(?P<axes>[-.]idx\d-ubyte)(?P<gz>\.gz)?"
)
SPLITS = {"train": TRAIN, "t10k": TEST, "test": TEST}
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}  # third byte of a file -> dtype


def recognises(path: Path) -> bool:
    if path.is_dir():
        return bool(_files_in(path))
    return NAME.fullmatch(path.name) is not None


def read(path: Path, name: str) -> Source:
    if path.is_dir():
        return _read_folder(path, name)
    match = NAME.fullmatch(path.name)
    assert match
    if match["what"] != "images":
        raise DataError(f"{name}: holds labels: expected the file of images beside it")
    files = _files_in(path.parent)
    labels = files.get((match["set"], match["part"], "labels"))
    if labels is None:
        raise DataError(f"{name}: has no labels: expected {match['set']}{match['part']}-labels-idx1-ubyte beside it")
    return Source({WHOLE: _pair(path, labels, name)})


def _read_folder(path: Path, name: str) -> Source:
    files = _files_in(path)
    sets = sorted({which for which, _, _ in files})
    if len(sets) > 1:
        raise DataError(
            f"{name}: holds {len(sets)} data sets ({', '.join(sets)}): expected one file of images among them"
        )
    splits: dict[str, Split] = {}
    for part in dict.fromkeys(part for _, part, _ in files):
        missing = [what for what in ("images", "labels") if (sets[0], part, what) not in files]
        if missing:
            raise DataError(f"{name}: has no {sets[0]}{part}-{missing[0]} file")
        if SPLITS[part] in splits:
            raise DataError(f"{name}: holds t10k and test files, which are the same split")
        splits[SPLITS[part]] = _pair(files[sets[0], part, "images"], files[sets[0], part, "labels"], name)
    return Source(splits)


def _files_in(folder: Path) -> dict[tuple[str, str, str], Path]:
    """(data set, part, images or labels) -> file; of a file and its gzip the file."""
    try:
        named = [(NAME.fullmatch(one.name), one) for one in folder.iterdir()]
    except OSError:
        return {}
    files: dict[tuple[str, str, str], Path] = {}
    for match, file in sorted(named, key=lambda one: one[1].name, reverse=True):
        if match and file.is_file():
            files[match["set"], match["part"], match["what"]] = file
    return dict(sorted(files.items()))


def _pair(images: Path, labels: Path, name: str) -> Split:
    pixels, numbers = _array(images, name), _array(labels, name)
    if not pixels.ndim or numbers.ndim != 1 or len(pixels) != len(numbers):
        raise DataError(f"{name}: {images.name} is {list(pixels.shape)} and {labels.name} {list(numbers.shape)}")
    return Split(pixels, numbers)


def _array(file: Path, name: str) -> Any:
    """The format: two zero bytes, the type, the number of axes, their sizes as big-endian int32, then the values."""
    import numpy as np

    with open(file, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    with gzip.open(file) if zipped else open(file, "rb") as content:
        head = content.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
            raise DataError(f"{name}: {file.name} is not an idx file")
        dtype = np.dtype(TYPES[head[2]])
        sizes = content.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise DataError(f"{name}: {file.name} is cut short")
        shape = struct.unpack(f">{head[3]}I", sizes)
        expected = math.prod(shape) * dtype.itemsize
        values = content.read()
    if len(values) != expected:
        raise DataError(f"{name}: {file.name} holds {len(values)} bytes of values, its header says {expected}")
    return np.frombuffer(values, dtype).reshape(shape)
