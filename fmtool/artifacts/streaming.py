"""Artifacts larger than memory: the same files as `format` reads and writes, a few rows at a time.

Files are read with `pread`, never mapped: a mapped page that was read counts as the process's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fmtool.artifacts import files
from fmtool.artifacts.format import (
    Artifact,
    describe_header,
    header_end,
    not_whole,
    offsets_of,
    serialise_header,
    with_digest,
)
from fmtool.artifacts.output import STREAM, replacing
from fmtool.errors import ArtifactError

CHUNK = 2**20  # bytes read at a time where a whole file passes through
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8, "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class Handle:
    """A file's descriptor, closed when the last tensor that reads from it is gone.

    still: the file is somebody's, and must stay as it was when it was opened: its digest is checked once, at first.
    """

    def __init__(self, descriptor: int, *, still: bool = False) -> None:
        self.descriptor = descriptor
        self.stamp = self._stamp() if still else None

    def check(self, name: str) -> None:
        """ArtifactError where the file was changed in place."""
        if self.stamp is not None and self._stamp() != self.stamp:
            raise ArtifactError(f"{name}: was changed while it was read")

    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class FileRows:
    """A tensor in a file; `rows[i]`, `rows[a:b]` and `rows[tensor of numbers]` are read when asked for, by any thread."""

    file: Handle
    name: str  # of the file, for messages
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # of its first byte

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._read(start, max(stop - start, 0))
        if isinstance(rows, Tensor) and rows.ndim:
            found = [self._read(row, 1) for row in rows.tolist()]
            return torch.cat(found) if found else self._read(0, 0)
        return self._read(int(rows), 1)[0]

    def _read(self, start: int, count: int) -> Tensor:
        data = _read_at(self.file, self.start + start * self.row_bytes, count * self.row_bytes, self.name)
        shape = (count, *self.shape[1:])
        return torch.frombuffer(data, dtype=self.dtype).view(shape) if data else torch.empty(shape, dtype=self.dtype)


class FileTensors(Mapping[str, Tensor]):
    """The tensors of a file, read when asked for: whole by `[name]`, in part through `rows(name)`."""

    def __init__(self, parts: Mapping[str, FileRows]) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> Tensor:
        return self.parts[name][:]

    def __contains__(self, name: object) -> bool:  # a Mapping's own reads the tensor to see
        return name in self.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def read(source: str, *kinds: str) -> Artifact:
    """As `files.read`, with the tensors left in the file. Standard input and pipes are copied to a nameless file first."""
    name = files.label(source)
    regular = source != STREAM and os.path.isfile(source)
    path = source if regular else _spool(source)
    try:
        file = Handle(os.open(path, os.O_RDONLY), still=True)
        size = os.fstat(file.descriptor).st_size
        # the library checks the layout; it maps the file, and touches no tensor. By its number: the name may be another's by now
        with safe_open(f"/dev/fd/{file.descriptor}", framework="pt"):
            pass
    except SafetensorError as error:
        raise not_whole(name, error) from None
    except OSError as error:
        raise ArtifactError(f"{name}: can't be read: {error.strerror}") from None
    finally:
        if not regular:
            os.unlink(path)
    end = header_end(bytes(_read_at(file, 0, 8, name)))
    head = bytes(_read_at(file, 0, end, name))
    found = describe_header(head, _chunks(file, end, size, name), name, *kinds)
    tensors = FileTensors(_parts(file, found.offsets, found.shapes, end, name))
    artifact = Artifact(found.kind, found.header, tensors, found.history, name)
    artifact.__dict__["digest"] = found.digest
    return artifact


class Writer:
    """A new artifact that is filled a row at a time: `put`, in any order."""

    def __init__(self, file: IO[bytes], head: bytes, layout: Layout) -> None:
        self.file = Handle(os.dup(file.fileno()))  # stays open when the file has its name
        shapes = {name: (NAMES[dtype], shape) for name, (dtype, shape) in layout.items()}
        self.parts = _parts(self.file, offsets_of(shapes), shapes, len(head), "the new file")
        file.write(head)
        file.truncate(len(head) + sum(part.row_bytes * len(part) for part in self.parts.values()))

    def put(self, name: str, values: Tensor, row: int | None = None) -> None:
        """One row, or all of them."""
        part = self.parts[name]
        data = values.detach().cpu().to(part.dtype).contiguous().numpy().tobytes()
        assert len(data) == (part.row_bytes if row is not None else part.row_bytes * len(part)), name
        _write_at(self.file, data, part.start + (row or 0) * part.row_bytes)


class Memory:
    """The same for an artifact that stays in memory."""

    def __init__(self, layout: Layout) -> None:
        self.tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in layout.items()}

    def put(self, name: str, values: Tensor, row: int | None = None) -> None:
        if row is None:
            self.tensors[name].copy_(values)
        else:
            self.tensors[name][row] = values


class Made:
    """What `making` gives: `put` rows, then `artifact` when the block is over."""

    def __init__(self, into: Writer | Memory) -> None:
        self.put = into.put
        self.artifact: Artifact


@contextmanager
def making(
    target: str | None, kind: str, header: dict[str, Any], history: list[dict[str, Any]], layout: Layout
) -> Iterator[Made]:
    """An artifact of known shapes that is filled row by row, in the file `target` ("-" for standard output) or in memory.

    The target appears, or is replaced, when the block ends without an error. The artifact then reads from it.
    """
    if target is None:
        memory = Memory(layout)
        made = Made(memory)
        yield made
        made.artifact = Artifact(kind, header, memory.tensors, history)
        return
    shapes = {name: (NAMES[dtype], shape) for name, (dtype, shape) in layout.items()}
    head = serialise_header(kind, header, history, shapes)
    with replacing(target) as file:
        writer = Writer(file, head, layout)
        made = Made(writer)
        yield made
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(head)
        for chunk in _chunks(writer.file, len(head), size, target):
            digest.update(chunk)
        _write_at(writer.file, with_digest(head, digest.hexdigest()), 0)
    made.artifact = Artifact(kind, header, FileTensors(writer.parts), history, files.label(target))
    made.artifact.__dict__["digest"] = digest.hexdigest()


def _spool(source: str) -> str:
    """What comes through a pipe, in a file that can be read at any place: its path."""
    if source == STREAM and sys.stdin.isatty():
        raise ArtifactError("standard input is a terminal: expected a file through a pipe for '-'")
    try:
        with (
            open(source, "rb") if source != STREAM else contextlib.nullcontext(sys.stdin.buffer) as stream,
            tempfile.NamedTemporaryFile(delete=False) as file,  # second: a folder or a missing file ends before it
        ):
            shutil.copyfileobj(stream, file, CHUNK)
            size = file.tell()
    except OSError as error:
        raise ArtifactError(f"{files.label(source)}: can't be read: {error.strerror}") from None
    if source == STREAM and not size:
        os.unlink(file.name)
        raise ArtifactError("standard input is empty: expected a file (did the command before the pipe fail?)")
    return file.name


def _parts(
    file: Handle,
    offsets: Mapping[str, int],
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    end: int,
    name: str,
) -> dict[str, FileRows]:
    return {
        key: FileRows(file, name, DTYPES[dtype], shape, end + offsets[key]) for key, (dtype, shape) in shapes.items()
    }


def _read_at(file: Handle, start: int, count: int, name: str) -> bytearray:
    """Exactly `count` bytes, in memory of their own."""
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        try:
            got = os.preadv(file.descriptor, [view[done:]], start + done)
        except OSError as error:
            raise ArtifactError(f"{name}: can't be read: {error.strerror}") from None
        if not got:
            raise ArtifactError(f"{name}: ends before its last tensor: was it truncated while it was read?")
        done += got
    file.check(name)
    return data


def _chunks(file: Handle, start: int, end: int, name: str) -> Iterator[bytearray]:
    for at in range(start, end, CHUNK):
        yield _read_at(file, at, min(CHUNK, end - at), name)


def _write_at(file: Handle, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file.descriptor, view, start)
        view, start = view[done:], start + done


def read_any(source: str) -> Artifact:
    """As `read`, for a file of any kind: a model, whose tensors may be of types that can't be read by rows, is read whole."""
    try:
        return read(source)
    except KeyError:
        return files.read(source, "model")
