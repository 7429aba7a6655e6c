"""Check files together: their digests, which were made from which, and what is missing. Only data need torch."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fmtool.artifacts import history
from fmtool.artifacts.descriptions import describe
from fmtool.artifacts.files import label, looks_like_artifact, read_bytes
from fmtool.artifacts.format import check_layout, header_end
from fmtool.artifacts.matrices import MATRIX, digest_of, file_and_name, matrices_in
from fmtool.artifacts.output import STREAM
from fmtool.artifacts.progress import Progress
from fmtool.errors import ArtifactError, FmtoolError, FmtoolWarning
from fmtool.tables.table import Table

SAFETENSORS = re.compile(r"\.safetensors(\.\d+-of-\d+)?$")  # shards too, as the scripts for clusters call them
OURS = (b'\\"digest\\":', b'\\"history\\":')  # in the header of a file that fmtool wrote


@dataclass
class Examined:
    """A file, or data by name. digests: all under which histories may record it; data have one per split, size and limit.

    state: "ok", "unknown" (apparently intact, but in no history), "missing" or "damaged"; damage: the message for the last two.
    """

    name: str
    kind: str = "unknown"  # of a file that is in no history
    digests: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    state: str = "ok"
    damage: str = ""


def examine(files: Sequence[str], progress: Progress | None = None) -> list[Examined]:
    """Read and check every file. Files not made by fmtool are recognised by the histories of those that were."""
    examined = []
    for number, file in enumerate(dict.fromkeys(files)):
        if progress:
            progress("reading", number, len(files))
        examined.append(_examined(file))
    named = {
        entry["digest"]: entry
        for one in examined
        for stage in one.history
        for entry in stage["inputs"]
        if entry["kind"] == "data"
    }
    known = {digest for one in examined for digest in one.digests}
    # data have a split, and a digest that is no file's: for them no file need be read again
    missing = {digest: entry for digest, entry in named.items() if digest not in known and not entry.get("split")}
    if missing:
        for file, one in zip(dict.fromkeys(files), examined, strict=True):
            one.digests += [digest for digest in _others(file, one, missing) if digest in missing]
    foreign = [one for one in examined if not one.history and not one.damage]
    for one in foreign:
        entry = next((named[digest] for digest in one.digests if digest in named), None)
        if entry is not None:  # inputs whose digest is the file's
            adversarial, matrix = entry.get("option") == "--adversarial", entry.get("name") == MATRIX
            one.kind = "adversarial images" if adversarial else MATRIX if matrix else "checkpoint"
    wanted = {digest: entry for digest, entry in named.items() if digest not in known and entry.get("split")}
    for one in foreign:
        _recognise(one, wanted)
        if one.kind == "unknown":
            one.state = "unknown"
    return examined


def table(examined: Sequence[Examined]) -> Table:
    """One row per file; the notes say what is missing."""
    names = {digest: one.name for one in examined for digest in one.digests}
    rows: list[list[Any]] = []
    for one in examined:
        makers = history.makers(one.history, next(iter(one.digests), ""))
        inputs = one.history[-1]["inputs"] if one.history else []
        digests = ", ".join(digest[: history.SHORT] for digest in one.digests)
        rows.append(
            [one.name, one.kind, digests or None, one.state, ", ".join(history.sources(inputs, makers, names)) or None]
        )
    missing = history.missing({one.name: one.history for one in examined}, names)
    notes = [f"missing: {title}, which led to {', '.join(files)}" for title, files in missing.items()]
    return Table("Files", dict.fromkeys(("file", "kind", "digest", "state", "made from"), ""), rows, notes)


def _examined(file: str) -> Examined:
    name, source = label(file), _source(file)
    if file != STREAM and (os.path.isdir(source) or _named(file)):
        return Examined(name)
    try:
        if file != STREAM and (matrix := _matrix(file)):
            if not (digests := _digests_of_matrices(file)):
                raise ArtifactError(f"{name}: holds no matrix {matrix!r}")
            return Examined(name, digests=digests)
        if file == STREAM or looks_like_artifact(source) or not os.path.isfile(source):
            one = describe(source)
            return Examined(name, one.kind, [one.digest], one.history)
        digest = _sha256(source)
        if digest == hashlib.sha256().hexdigest():
            raise ArtifactError(f"{name}: damaged: is empty")
        if SAFETENSORS.search(source):
            data = read_bytes(source)
            check_layout(data, name)
            if all(field in data[: header_end(data)] for field in OURS):
                raise ArtifactError(f"{name}: damaged: has the fields of fmtool's header, but not its name")
        return Examined(name, digests=[digest])
    except ArtifactError as error:
        there = file == STREAM or os.path.exists(file_and_name(source)[0])
        return Examined(name, state="damaged" if there else "missing", damage=str(error))


def _others(file: str, one: Examined, missing: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Digests of other things that a file may have been read as: a checkpoint, though fmtool wrote it, or matrices."""
    if one.history:
        return [] if file == STREAM else [_sha256(_source(file))]
    if one.damage or _matrix(file) or not any(entry.get("name") == MATRIX for entry in missing.values()):
        return []
    try:
        return _digests_of_matrices(file)
    except FmtoolError:
        return []


def _digests_of_matrices(file: str) -> list[str]:
    """Those of the matrices that a file may be taken for, without a word on how."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FmtoolWarning)
        return [digest_of(matrix) for matrix in matrices_in(file)]


def _matrix(file: str) -> str | None:
    """NAME, if this is FILE:NAME, a matrix of a file."""
    from fmtool.datasets.splits import SUFFIXES

    there, name = file_and_name(file)
    return name if name not in SUFFIXES and os.path.isfile(there) else None


def _named(file: str) -> bool:
    """Whether this is the name of a data set and not a file."""
    from fmtool.datasets.registry import DATASETS

    return _source(file) in DATASETS and not os.path.exists(file)


def _source(file: str) -> str:
    """A file, a folder or the name of a data set, without the split behind it."""
    from fmtool.datasets.splits import SUFFIXES

    source, colon, split = file.rpartition(":")
    return source if colon and split in SUFFIXES and not os.path.exists(file) else file


def _sha256(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{file}: can't be read: {error.strerror}") from None


def _recognise(one: Examined, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Load a file's images the way each history records, and keep the digests that match."""
    source = _source(one.name)
    for digest, entry in wanted.items():
        if _named(one.name) and entry.get("name") != source:
            continue  # it may have to be downloaded
        spec = history.data_argument({**entry, "name": source})
        if source != one.name and spec != one.name:
            continue
        if _data_digest(spec, entry) == digest:
            one.digests = [digest] if one.kind != "data" else [*one.digests, digest]
            one.kind = "data"


def _data_digest(spec: str, entry: Mapping[str, Any]) -> str | None:
    """The digest of the images and labels, read as a history's entry says; None if the file holds no such data."""
    from fmtool.datasets.arrays import parse_range
    from fmtool.datasets.data import load
    from fmtool.datasets.rows import parse_rows

    size, limit, rows, layout, pixel_range = (
        entry.get(name) for name in ("size", "limit", "rows", "layout", "pixel-range")
    )
    if not all(value is None or isinstance(value, int) for value in (size, limit)):
        return None
    try:
        return load(
            spec,
            size=size,
            limit=limit,
            rows=None if rows is None else parse_rows(str(rows)),
            layout=None if layout is None else str(layout),
            pixel_range=None if pixel_range is None else parse_range(str(pixel_range)),
        ).digest
    except FmtoolError:
        return None
