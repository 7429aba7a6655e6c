"""A zip of a folder of images. Nothing is unpacked to disk, and a hostile zip causes one error line and takes little memory."""

from __future__ import annotations

import contextlib
import stat
import zipfile
from pathlib import Path, PurePosixPath

from fmtool.datasets.image_files import is_hidden
from fmtool.datasets.readers.folders import Tree, from_tree
from fmtool.datasets.source import Source
from fmtool.errors import DataError

LARGEST_ENTRY = 2**28  # bytes of a file in a zip, where a few bytes may unpack to any size
UTF8 = 0x800  # the flag of an entry whose name is in UTF-8


def recognises(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def read(path: Path, name: str) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # damaged bytes may cause any exception
        raise DataError(f"{name}: can't be read as a zip: {str(error) or type(error).__name__}") from None
    entries: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for entry in archive.infolist():
        file = _name(entry).replace("\\", "/")  # as some Windows tools write names
        parts = PurePosixPath(file).parts
        if file.startswith("/") or ".." in parts:
            raise DataError(f"{name}: {file}: leads out of the zip")
        if any(is_hidden(part) for part in parts) or not parts:
            continue
        file = "/".join(parts) + ("/" if file.endswith("/") else "")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts) + file.endswith("/")))
        if file.endswith("/"):
            continue
        if file in entries:
            raise DataError(f"{name}: holds {file} twice")
        entries[file] = entry
    tree = Tree(sorted(entries), sorted(folders))
    return from_tree(tree, lambda file: _unzip(archive, entries[file]), name)


def _name(entry: zipfile.ZipInfo) -> str:
    """Many tools write UTF-8 without the flag that says so, which the library takes for the code page of DOS."""
    if not entry.flag_bits & UTF8:
        with contextlib.suppress(UnicodeError):
            return entry.filename.encode("cp437").decode()
    return entry.filename


def _unzip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A file of a zip; OSError if it is a link or larger than `LARGEST_ENTRY`, whatever size it claims."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise OSError("a symbolic link")
    size = min(entry.file_size, LARGEST_ENTRY) + 1  # the library unpacks no more than requested
    with archive.open(entry) as file:
        data = file.read(size)
    if len(data) == size:
        raise OSError(f"unpacks to more than {size - 1} bytes")
    return data
