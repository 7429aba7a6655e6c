"""Parquet as in Hugging Face's data sets: a column of encoded images and one of labels, in one or several part files."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from fmtool.datasets.image_files import refuse_beside_pictures
from fmtool.datasets.source import WHOLE, Encoded, Source, Split
from fmtool.datasets.splits import split_in, split_named
from fmtool.errors import DataError, warn

SUFFIX = ".parquet"
PART = re.compile(r"(?P<split>.*?)-?(?P<number>\d{5})-of-(?P<of>\d{5})(-[0-9a-f]+)?")
NUMBER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")  # of a file in a series: a UUID, or digits
IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "picture")
INDEX = re.compile(r"__index_level_\d+__")  # what pandas adds to number its rows
GROUPS_KEPT = 2  # row groups whose encoded images stay in memory
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class", "cls", "y")


def recognises(path: Path) -> bool:
    if path.is_dir():
        return bool(_part_files(path))
    return path.suffix.lower() == SUFFIX


def read(path: Path, name: str) -> Source:
    for folder, file in {file.parent: file for file in _part_files(path) if path.is_dir()}.items():
        refuse_beside_pictures(file, folder.iterdir(), name)
    splits = _by_split(path, name) if path.is_dir() else {WHOLE: [path]}
    parquet = _library(name)
    parts: dict[str, Split] = {}
    class_names, errors = set(), list[str]()
    for split, files in splits.items():
        try:  # a split that isn't asked for may lack labels, as a competition's test split does
            parts[split], names = _read_split(parquet, files)
            class_names.add(names)
        except DataError as error:
            errors.append(f"the split {split}: {error}" if split else str(error))
    if not parts:
        raise DataError(f"{name}: {'; '.join(errors)}")
    if len(class_names) > 1:
        raise DataError(f"{name}: its splits name different classes")
    return Source(parts, class_names.pop(), tuple(errors))


def _part_files(folder: Path) -> list[Path]:
    """Part files of a folder, or of the folders within (data/, or one for each split); hidden ones are not."""
    return sorted(
        file
        for pattern in ("*", "*/*")
        for file in folder.glob(f"{pattern}{SUFFIX}")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _by_split(folder: Path, name: str) -> dict[str, list[Path]]:
    """Ordered files by the split that their own or their folder's name indicates, all of one series."""
    splits: dict[str, list[Path]] = {}
    unnamed = []
    for file in _part_files(folder):
        match = PART.fullmatch(file.stem)
        own = match["split"] if match else file.stem
        split = split_named(own) or split_named(file.parent.name)
        if split is None:
            unnamed.append(file)
        else:
            splits.setdefault(split, []).append(file)
    within = {file: split_in(file.stem)[0] for file in unnamed}
    if (
        len(set(within.values())) > 1 and None not in within.values()
    ):  # cifar_train and cifar_test; a single one may be any word
        for file, split in within.items():
            splits.setdefault(str(split), []).append(file)
        unnamed = []
    if unnamed and splits:
        raise DataError(
            f"{name}: {unnamed[0].name} is beside the splits {', '.join(splits)} but belongs to none of them"
        )
    splits = splits or {WHOLE: unnamed}
    for files in splits.values():
        folders = {file.parent for file in files}
        if len(folders) > 1:
            raise DataError(
                f"{name}: holds several series of part files: expected {' or '.join(sorted(map(str, folders)))}"
            )
        _check_parts(files, name)
    return splits


def _check_parts(files: Sequence[Path], name: str) -> None:
    """Check that the files are one series, and that no part is missing as far as the names say how many there are."""
    numbered = [match for file in files if (match := PART.fullmatch(file.stem))]
    if not numbered:
        several = len({NUMBER.sub("", file.stem) for file in files}) > 1
        if several and not split_named(files[0].parent.name):
            some = " and ".join(file.name for file in files[:2])
            raise DataError(
                f"{name}: can't tell how {some} belong together: expected the parts of one series, or splits"
            )
        return
    of = {int(match["of"]) for match in numbered}
    there = [int(match["number"]) for match in numbered]
    missing = sorted(set(range(max(of))) - set(there))
    if len(of) > 1 or len(numbered) < len(files) or len(there) > len(set(there)):
        raise DataError(f"{name}: its part files are not one series ({', '.join(file.name for file in files)})")
    if missing:
        raise DataError(
            f"{name}: lacks {len(missing)} of {max(of)} part files of {numbered[0]['split']}, first number {missing[0]}"
        )


def _read_split(parquet: Any, files: Sequence[Path]) -> tuple[Split, tuple[str, ...]]:
    """Encoded images and labels, in the files' order, and the class names of the files' own metadata."""
    groups: list[tuple[Path, int, str]] = []  # file, row group and column of images
    ends: list[int] = []  # of the groups, in rows of the split
    labels: list[Any] = []
    class_names: tuple[str, ...] | None = None
    for file in files:
        with parquet.ParquetFile(file) as content:
            schema = content.schema_arrow
            image, label = _columns(schema, file.name)
            names = _class_names(schema, label)
            if class_names is not None and names != class_names:
                raise DataError(f"{file.name} names different classes from the parts before it")
            class_names = names
            labels += content.read(columns=[label])[label].to_pylist()
            for number in range(content.num_row_groups):
                groups.append((file, number, image))
                ends.append(content.metadata.row_group(number).num_rows + (ends[-1] if ends else 0))
    if not labels:
        raise DataError("holds no images")
    if None in labels:
        raise DataError(f"row {labels.index(None)} has no label")
    if label not in LABEL_COLUMNS and not class_names:
        warn(f"{files[0].name}: takes the labels from the column {label}")
    reading = Lock()

    @lru_cache(GROUPS_KEPT)
    def images_of(group: int) -> Any:
        file, number, image = groups[group]
        with parquet.ParquetFile(file) as content:
            return content.read_row_group(number, columns=[image])[image]

    def encoded(number: str) -> bytes:
        row = int(number)
        group = bisect_right(ends, row)
        with reading:  # only groups with images that are asked for are read, each by one thread
            images = images_of(group)
        value = images[row - ends[group] + len(images)].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise OSError("its bytes are not in the file")
        return bytes(content)

    return Split(Encoded([str(number) for number in range(len(labels))], encoded), labels), class_names or ()


def _library(name: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{name}: reading Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet


def _columns(schema: Any, file: str) -> tuple[str, str]:
    """The columns of images and labels: by the usual names, else the only one of a fitting type."""
    import pyarrow.types as types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def holds_labels(kind: Any) -> bool:
        if types.is_dictionary(kind):  # categories
            return holds_labels(kind.value_type)
        text = [types.is_string, types.is_large_string, getattr(types, "is_string_view", types.is_string)]
        return any(fits(kind) for fits in (types.is_integer, types.is_boolean, *text))

    there = {field.name: field.type for field in schema if not INDEX.fullmatch(field.name)}
    images = [column for column, kind in there.items() if holds_bytes(kind)]
    features = _features(schema)
    classes = [column for column in there if features.get(column, {}).get("_type") == "ClassLabel"]
    plain = [column for column, kind in there.items() if holds_labels(kind)]
    usual = [column for column in LABEL_COLUMNS if column in there]
    image = _one(images, IMAGE_COLUMNS)
    label = (
        _one([column for column in plain if column in LABEL_COLUMNS], LABEL_COLUMNS)
        or _one(classes, ())
        or (_one(plain, ()) if not usual else None)
    )
    if label is None and usual:
        raise DataError(f"{file}: the column {usual[0]} is of type {there[usual[0]]}, expected integers or names")
    if image is None or label is None:
        raise DataError(
            f"{file} has columns {', '.join(there)}: expected one of image bytes ({', '.join(IMAGE_COLUMNS[:2])}) "
            f"and one of labels ({', '.join(LABEL_COLUMNS[:3])})"
        )
    return image, label


def _one(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    return next((column for column in usual if column in columns), columns[0] if len(columns) == 1 else None)


def _features(schema: Any) -> dict[str, Any]:
    """Hugging Face's metadata of each column."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {name: one for name, one in features.items() if isinstance(one, dict)} if isinstance(features, dict) else {}


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    names = _features(schema).get(label, {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) else ()
