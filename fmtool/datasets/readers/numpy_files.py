"""NumPy's files: an .npz with images and labels, or an .npy of images with its labels beside it, as in CIFAR-10-C."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fmtool.datasets.arrays import IMAGE_NAMES, LABEL_NAMES, from_names
from fmtool.datasets.image_files import refuse_beside_pictures
from fmtool.datasets.source import WHOLE, Source, Split
from fmtool.datasets.splits import split_in
from fmtool.errors import DataError

LABELS = "labels"


def recognises(path: Path) -> bool:
    if path.is_dir():
        return any(_arrays_in(path))
    return path.suffix.lower() in (".npz", ".npy")


def read(path: Path, name: str) -> Source:
    if path.is_dir():
        refuse_beside_pictures(_arrays_in(path)[0], path.glob("*/*"), name)
        return _read_folder(path, name)
    return _read_npz(path, name) if path.suffix.lower() == ".npz" else _read_npy(path, name)


def _read_npz(path: Path, name: str) -> Source:
    import numpy as np

    with open(path, "rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{name}: holds one array, expected images and labels")
        return from_names({key: archive[key] for key in archive.files}, name)


def _read_npy(path: Path, name: str) -> Source:
    beside = next((one for one in _labels_beside(path) if one.exists() and one != path), None)
    if beside is None:
        expected = " or ".join(dict.fromkeys(one.name for one in _labels_beside(path)))
        raise DataError(f"{name}: has no labels: expected {expected} beside it")
    return _paired(path, beside, name)


def _paired(images: Path, labels: Path, name: str) -> Source:
    pixels, numbers = _load(images), _load(labels)
    if not pixels.ndim or not numbers.ndim or len(pixels) != len(numbers):
        count = len(numbers) if numbers.ndim else "no"
        raise DataError(f"{name}: holds {len(pixels) if pixels.ndim else 'no'} images and {labels.name} {count} labels")
    return Source({WHOLE: Split(pixels, numbers)})


def _labels_beside(path: Path) -> list[Path]:
    """The files that may hold an array's labels: y_test.npy for x_test.npy, else labels.npy."""
    words = path.stem.split("_")
    swapped = [
        "_".join([*words[:place], label, *words[place + 1 :]])
        for place, word in enumerate(words)
        if word.lower() in IMAGE_NAMES
        for label in LABEL_NAMES
    ]
    return [path.with_name(f"{stem}.npy") for stem in (*swapped, f"{path.stem}_{LABELS}", LABELS)]


def _read_folder(path: Path, name: str) -> Source:
    """Arrays under the usual names, or one array of any name beside labels.npy."""
    files = {one.stem: one for one in _arrays_in(path)}
    if any(split_in(stem)[1] in IMAGE_NAMES for stem in files):
        return from_names({stem: _load(file) for stem, file in sorted(files.items())}, name)
    images = sorted(file.name for stem, file in files.items() if split_in(stem)[1] not in LABEL_NAMES)
    if LABELS not in files or not images:
        raise DataError(
            f"{name}: holds {', '.join(sorted(one.name for one in files.values()))}, expected images and labels.npy"
        )
    if len(images) > 1:
        raise DataError(
            f"{name}: holds {len(images)} arrays of images: expected one of them, such as {os.path.join(name, images[0])}"
        )
    return _paired(path / images[0], files[LABELS], name)


def _arrays_in(path: Path) -> list[Path]:
    return [one for one in path.glob("*.npy") if not one.name.startswith(".")]


def _load(path: Path) -> Any:
    """An array that stays in its file until rows of it are taken."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path}: can't be read as .npy: {error}") from None
