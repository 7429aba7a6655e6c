"""Folders of images as torchvision's ImageFolder reads them, and folders of such folders, one per split."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fmtool.datasets.image_files import is_hidden, is_image
from fmtool.datasets.labels import in_order, printable_name
from fmtool.datasets.source import WHOLE, Encoded, Source, Split
from fmtool.datasets.splits import TRAIN, split_in, split_named
from fmtool.errors import DataError, warn

SHOWN = 3  # names in a warning about what was left out


@dataclass
class Tree:
    """Names of files and folders, relative and with slashes, without hidden ones, and what could not be walked."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> names

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)


def recognises(path: Path) -> bool:
    return os.path.isdir(path)


def read(path: Path, name: str) -> Source:
    return from_tree(walk(path, name), lambda file: (path / file).read_bytes(), name)


def walk(path: Path, name: str) -> Tree:
    """Everything below a folder. Links are followed, except those that lead back to a folder they are in."""
    tree = Tree()

    def enter(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{name}: {prefix or '.'}: can't be read: {error.strerror}") from None
        for entry in entries:
            inner = f"{prefix}{entry.name}"
            if is_hidden(entry.name):
                continue
            try:
                status = entry.stat()
            except OSError as error:
                nowhere = error.errno in (errno.ENOENT, errno.ELOOP)
                tree.leave_out(
                    "links that lead nowhere" if nowhere else f"what can't be read ({error.strerror})", inner
                )
                continue
            if entry.is_dir():
                here = (status.st_dev, status.st_ino)
                if here in above:
                    tree.leave_out("links back to a folder that they lie in", inner)
                    continue
                tree.folders.append(inner)
                enter(Path(entry.path), f"{inner}/", (*above, here))
            elif entry.is_file():
                tree.files.append(inner)
            else:
                tree.leave_out("entries that aren't regular files", inner)

    status = os.stat(path)
    enter(path, "", ((status.st_dev, status.st_ino),))
    return tree


def from_tree(tree: Tree, read_file: Callable[[str], bytes], name: str) -> Source:
    """Files as images of classes and splits: SPLIT/CLASS/.../FILE or CLASS/.../FILE, within a folder around everything.

    Classes are numbered by `in_order`, files by folder and name as torchvision sorts them. Images outside class folders are left
    out and counted; DataError for a class or split without images, for a folder beside the splits and for splits within classes.
    """
    images = [file for file in tree.files if is_image(PurePosixPath(file))]
    for file in tree.files:
        if not is_image(PurePosixPath(file)):
            tree.leave_out("files that aren't images", file)
    around = _around(tree.folders, images)
    folders = _below(tree.folders, around)
    images = _below(images, around)
    splits = _splits(folders, images, name)
    classes = {split: _classes(folders, images, top, tree, around, name) for split, top in splits.items()}
    if not any(classes.values()):
        what = "holds images, but no folders of them" if images else "holds no images"
        raise DataError(f"{name}: {what}, expected one folder of images per class")
    _check_folders(classes, name)
    _check_outermost(classes.get(WHOLE, {}), name)
    class_folders = in_order(one for members in classes.values() for one in members)
    number = {one: row for row, one in enumerate(class_folders)}
    parts = {}
    for split, members in classes.items():
        files = [file for one in class_folders for file in members.get(one, ())]
        labels = [number[one] for one in class_folders for _ in members.get(one, ())]
        parts[split] = Split(Encoded([around + file for file in files], read_file), labels)
    if any(parts[split].images.names for split in parts):
        parts = {split: part for split, part in parts.items() if len(part)}
    return Source(parts, tuple(printable_name(one) for one in class_folders), _lines(tree.left_out))


def _around(folders: Sequence[str], images: Sequence[str]) -> str:
    """The prefix of the folders that hold everything else and are neither class nor split."""
    around = ""
    while True:
        tops = {one.split("/")[0] for one in _below(folders, around)}
        inner = _below(images, around)
        if len(tops) != 1 or any("/" not in file for file in inner):
            return around
        (top,) = tops
        deeper = _below(inner, f"{top}/")
        if split_named(top) or not deeper or any("/" not in file for file in deeper):
            return around
        around += f"{top}/"


def _below(names: Iterable[str], prefix: str) -> list[str]:
    return [name[len(prefix) :] for name in names if name.startswith(prefix) and len(name) > len(prefix)]


def _splits(folders: Sequence[str], images: Sequence[str], name: str) -> dict[str, str]:
    """Split -> prefix of its folder; `WHOLE` -> "" if the top folders are classes."""
    tops = list(dict.fromkeys(one.split("/")[0] for one in folders))
    _check_compound(tops, images, name)
    named = {top: split for top in tops if (split := split_named(top))}
    holding = {top: [file for file in images if file.startswith(f"{top}/")] for top in named}
    with_classes = [top for top in named if any(file.count("/") > 1 for file in holding[top])]
    direct = [top for top in named if any(file.count("/") == 1 for file in holding[top])]
    if not named or (not with_classes and len(named) < len(tops)):
        return {WHOLE: ""}
    if not with_classes and direct:
        raise DataError(
            f"{name}: {' and '.join(direct)} hold images themselves, expected one folder of images per class in each"
        )
    strange = [top for top in tops if top not in named]
    if strange:
        raise DataError(
            f"{name}: {printable_name(strange[0])} is beside the splits {', '.join(named)} but is not a split"
        )
    splits: dict[str, str] = {}
    for top, split in named.items():
        if split in splits:
            raise DataError(f"{name}: {splits[split][:-1]} and {top} are both the {split} split")
        splits[split] = f"{top}/"
    return splits


def _check_compound(tops: Sequence[str], images: Sequence[str], name: str) -> None:
    """DataError for training_set/CLASS/FILE beside test_set/CLASS/FILE: as classes they would be training and test."""
    depths: dict[str, set[bool]] = {top: set() for top in tops}
    for file in images:
        top, _, rest = file.partition("/")
        if rest and top in depths:
            depths[top].add("/" in rest)
    within = {top: split_in(top)[0] for top in tops if not split_named(top) and depths[top] == {True}}
    seeming = [top for top, split in within.items() if split]
    if len({within[top] for top in seeming}) > 1:
        raise DataError(
            f"{name}: {' and '.join(map(printable_name, seeming))} seem to be splits: expected "
            f"{' and '.join(str(within[top]) for top in seeming)}, or one of them as --data"
        )


def _classes(
    folders: Sequence[str], images: Sequence[str], top: str, tree: Tree, around: str, name: str
) -> dict[str, list[str]]:
    """Class folder -> its images, in torchvision's order. DataError for one without images."""
    classes: dict[str, list[str]] = {one: [] for one in _below(folders, top) if "/" not in one}
    for file in sorted((file for file in images if file.startswith(top)), key=_place):
        one, slash, _ = file[len(top) :].partition("/")
        if slash:
            classes.setdefault(one, []).append(file)
        else:
            tree.leave_out("images that lie in no class's folder", around + file)
    empty = sorted(one for one, files in classes.items() if not files)
    if empty and any(classes.values()):
        raise DataError(f"{name}: the class folder {printable_name(top + empty[0])} holds no images")
    return {one: files for one, files in classes.items() if files}


def _check_folders(classes: Mapping[str, Mapping[str, Sequence[str]]], name: str) -> None:
    """DataError for a split without a class of training, as Tiny ImageNet's val/images; a warning of other new classes."""
    train = classes.get(TRAIN, {})
    for split, members in classes.items():
        new = [printable_name(one) for one in members if one not in train]
        if len(train) < 2 or not new:
            continue
        some = (
            f"{'class' if len(new) == 1 else 'classes'} {', '.join(new[:SHOWN])}{', ...' if len(new) > SHOWN else ''}"
        )
        what = f"{name}: {split} holds {some}, which train doesn't"
        if len(new) == len(members):
            raise DataError(f"{what}: expected the same class folders, or none")
        warn(what)


def _check_outermost(classes: Mapping[str, Sequence[str]], name: str) -> None:
    """DataError for CLASS/SPLIT/.../FILE, as MVTec AD has it: every class holds splits alone, or several beside other folders."""
    within = [{split_named(file.split("/")[1]) for file in files} for files in classes.values()]
    if within and all(None not in splits or len(splits - {None}) > 1 for splits in within):
        one = printable_name(next(iter(classes)))
        inner = ", ".join(sorted({split for splits in within for split in splits if split}))
        raise DataError(
            f"{name}: its class folders hold splits ({inner}) themselves: expected splits that hold classes, as in train/{one}"
        )


def _place(file: str) -> tuple[str, str]:
    folder, _, base = file.rpartition("/")
    return folder, base


def _lines(left_out: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A line per reason: how many, and their suffixes or names."""
    lines = []
    for reason, names in sorted(left_out.items()):
        suffixes = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in names)
        if reason == "files that aren't images":
            shown = ", ".join(f"{suffix} {count}" for suffix, count in sorted(suffixes.items()))
        else:
            shown = ", ".join(printable_name(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        lines.append(f"{reason}: {len(names)} ({shown})")
    return tuple(lines)
