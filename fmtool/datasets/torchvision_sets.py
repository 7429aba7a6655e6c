"""torchvision's data sets: read below the user's folder, or downloaded into the cache, which is announced."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fmtool.datasets.readers.registry import read_path
from fmtool.datasets.source import WHOLE, Encoded, Source, Split
from fmtool.datasets.splits import TEST, TRAIN, VAL
from fmtool.errors import DataError, first_line
from fmtool.runtime.cache import cache_folder

DIGITS = tuple("0123456789")
# Our split -> torchvision's arguments for it.
BY_FLAG: dict[str, dict[str, Any]] = {TRAIN: {"train": True}, TEST: {"train": False}}
TWO: dict[str, dict[str, Any]] = {TRAIN: {"split": "train"}, TEST: {"split": "test"}}
TRAIN_VAL: dict[str, dict[str, Any]] = {TRAIN: {"split": "train"}, VAL: {"split": "val"}}
THREE: dict[str, dict[str, Any]] = {**TRAIN_VAL, TEST: {"split": "test"}}
NONE: dict[str, dict[str, Any]] = {WHOLE: {}}
# Attributes of torchvision's classes that hold the data, in the order of preference.
LABELS = ("targets", "_labels", "labels", "y")
FILES = ("_image_files", "_images", "data")
CLASSES = ("classes", "categories", "all_categories", "_characters", "class_to_idx")
PAIRS = ("_samples", "samples", "imgs", "_flat_character_images")  # (file, label)


@dataclass(frozen=True)
class OfTorchvision:
    """One of torchvision's classes. Called with the folder of the user's data sets, or None, it returns the source.

    kind: the class's name; splits: our split -> its arguments; at: names of which one is in its root if it exists; size: of
    the download, "" if there is none; address: where it is downloaded from; own: whether one of our readers reads `at`, which
    also accepts files that torchvision's checksums refuse; class_names: if the class has none.
    """

    kind: str
    splits: Mapping[str, Mapping[str, Any]]
    at: tuple[str, ...]
    size: str
    address: str
    own: bool = False
    class_names: tuple[str, ...] = ()

    def __call__(self, root: Path | None) -> Source:
        cache = cache_folder() / self.folder
        for folder in (root, cache):
            place = folder and self._place(folder)
            if folder and place:
                return self._read(folder, place)
        return self._download(cache)

    def _place(self, folder: Path) -> Path | None:
        return next((folder / name for name in self.at if (folder / name).exists()), None)

    @property
    def folder(self) -> str:
        return self.kind.lower()

    def _read(self, folder: Path, place: Path) -> Source:
        if self.own:
            source = read_path(str(place))
            return replace(source, class_names=source.class_names or self._names(None))
        opened, errors = {}, {}
        for split, arguments in self.splits.items():
            try:
                opened[split] = self._open(folder, arguments)
            except MemoryError:
                raise
            except Exception as error:  # damaged bytes may cause any exception
                errors[split] = first_line(error)
        if not opened:
            raise DataError(f"{place}: can't be read as {self.kind}: {next(iter(errors.values()))}")
        left_out = tuple(f"the split {split}: {error}" for split, error in errors.items())
        return replace(self._source(opened), left_out=left_out)

    def _download(self, cache: Path) -> Source:
        if not self.size:
            raise DataError(f"{self.kind} can't be downloaded: expected it below --data-root, as {self.at[0]}")
        print(f"downloading {self.address} ({self.size}) to {cache}", file=sys.stderr)
        try:
            self._fetch(cache)
        except MemoryError:
            raise
        except Exception as error:  # so may a failing download
            raise DataError(f"{self.folder} can't be downloaded: {first_line(error)}") from None
        return self._read(cache, self._place(cache) or cache)

    def _fetch(self, cache: Path) -> None:
        """Download all splits into a folder of their own, and move them up once complete: a part never passes for the whole."""
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=cache) as folder:
            fresh = Path(folder)
            for arguments in self.splits.values():
                try:  # some classes fetch all splits at once, and refuse to do so again
                    self._open(fresh, arguments)
                except MemoryError:
                    raise
                except Exception:
                    self._open(fresh, arguments, download=True)
            last = {name.partition("/")[0] for name in self.at}  # by which the whole is recognised
            for one in sorted(fresh.iterdir(), key=lambda one: one.name in last):
                if not (cache / one.name).is_dir():  # else another process was first
                    os.replace(one, cache / one.name)

    def _open(self, root: Path, arguments: Mapping[str, Any], download: bool = False) -> Any:
        import torchvision.datasets

        opened = getattr(torchvision.datasets, self.kind)(str(root), **arguments, download=download)
        if self.kind == "Omniglot":
            sort_omniglot(opened)
        return opened

    def _source(self, opened: Mapping[str, Any]) -> Source:
        parts = {split: _split(one) for split, one in opened.items()}
        names = {split: self._names(one) for split, one in opened.items()}
        every = tuple(
            dict.fromkeys(name for some in names.values() for name in some)
        )  # of Omniglot: other ones in each split
        number = {name: place for place, name in enumerate(every)}
        for split, some in names.items():
            if some != every:
                labels = [number[some[int(label)]] for label in parts[split].labels]
                parts[split] = replace(parts[split], labels=labels)
        return Source(parts, every, format=f"torchvision's {self.kind}")

    def _names(self, opened: Any) -> tuple[str, ...]:
        if self.class_names:
            return self.class_names
        import torchvision.datasets

        holder = opened if opened is not None else getattr(torchvision.datasets, self.kind)
        names = _held(holder, CLASSES) or ()
        return tuple(", ".join(one) if isinstance(one, tuple) else str(one) for one in names)


def _split(opened: Any) -> Split:
    """Images and labels of one of torchvision's data sets; files are not decoded yet."""
    if type(opened).__name__ in LISTED:
        files, labels = LISTED[type(opened).__name__](opened)
        return Split(Encoded(files, _bytes_of) if files else _items(opened), labels)
    pairs, labels = _held(opened, PAIRS), _held(opened, LABELS)
    if labels is None:
        labels = [pair[1] for pair in pairs] if pairs else [opened[row][1] for row in range(len(opened))]
    elif getattr(labels, "ndim", 1) == 2:  # QMNIST has the class, the series, the writer and so on of each image
        labels = labels[:, 0]
    if hasattr(getattr(opened, "data", None), "ndim"):
        return Split(opened.data, labels)
    files = _held(opened, FILES)
    if files is None and pairs and Path(str(pairs[0][0])).exists():
        files = [pair[0] for pair in pairs]
    return Split(Encoded([str(file) for file in files], _bytes_of) if files is not None else _items(opened), labels)


def _bytes_of(file: str) -> bytes:
    return Path(file).read_bytes()


def sort_omniglot(opened: Any) -> None:
    """torchvision numbers the characters, and lists their images, in the order of the file system."""
    number = {name: place for place, name in enumerate(sorted(opened._characters))}
    images = [(number[opened._characters[label]], image) for image, label in opened._flat_character_images]
    opened._characters = list(number)
    opened._flat_character_images = [(image, label) for label, image in sorted(images)]


def _sun397(opened: Any) -> tuple[list[str], list[int]]:
    """torchvision lists the files in the order of the file system."""
    pairs = sorted(zip(map(str, opened._image_files), opened._labels, strict=True))
    return [file for file, _ in pairs], [label for _, label in pairs]


def _inaturalist(opened: Any) -> tuple[list[str], list[int]]:
    """Here too, and labels are known only one by one."""
    pairs = sorted((label, str(Path(opened.root, opened.all_categories[label], file))) for label, file in opened.index)
    return [file for _, file in pairs], [label for label, _ in pairs]


def _caltech(folder: str, name: Callable[[int, int], str]) -> Callable[[Any], tuple[list[str], list[int]]]:
    def listed(opened: Any) -> tuple[list[str], list[int]]:
        rows = zip(opened.y, opened.index, strict=True)
        return [str(Path(opened.root, folder, opened.categories[y], name(y, k))) for y, k in rows], opened.y

    return listed


def _pcam(opened: Any) -> tuple[list[str], list[int]]:
    """The labels at once, as torchvision opens two files for each image."""
    with opened.h5py.File(opened._base_folder / opened._FILES[opened._split]["targets"][0]) as file:
        return [], file["y"][:].reshape(-1).tolist()


# Classes that hold files or labels in ways of their own: both, or no files where only the class can read them.
LISTED: dict[str, Callable[[Any], tuple[list[str], list[int]]]] = {
    "SUN397": _sun397,
    "INaturalist": _inaturalist,
    "Caltech101": _caltech("101_ObjectCategories", lambda y, k: f"image_{k:04d}.jpg"),
    "Caltech256": _caltech("256_ObjectCategories", lambda y, k: f"{y + 1:03d}_{k:04d}.jpg"),
    "PCAM": _pcam,
}


def _held(opened: Any, names: Sequence[str]) -> Any:
    """The first of these attributes that exists and is not empty."""
    values = (getattr(opened, name, None) for name in names)
    return next((value for value in values if value is not None and len(value)), None)


def _items(opened: Any) -> Encoded:
    """Images that only the class itself can provide, losslessly encoded."""

    def read(row: str) -> bytes:
        packed = io.BytesIO()
        opened[int(row)][0].save(packed, "PNG", compress_level=0)
        return packed.getvalue()

    return Encoded([str(row) for row in range(len(opened))], read)
