"""Artifacts larger than memory: the files that `files` reads and writes whole, a few rows at a time.

Files are read at offsets, never mapped: a mapped page, once read, counts as the process's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fmtool.artifacts import files
from fmtool.artifacts.format import (
    Artifact,
    Description,
    Rows,
    TensorsByRow,
    describe_header,
    header_end,
    not_whole,
    offsets_of,
    serialise_header,
    with_digest,
)
from fmtool.artifacts.output import MOVES_OPEN_FILES, STREAM, is_stream, replacing, temporary_folder
from fmtool.artifacts.progress import Progress
from fmtool.artifacts.rows import at_once
from fmtool.errors import ArtifactError

POSITIONED = hasattr(os, "preadv")  # reads and writes at an offset, which Windows lacks
BINARY = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would translate line ends
CHUNK = 2**20  # bytes read at a time where a whole file passes through
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8, "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class Handle:
    """A file's descriptor, closed once no tensor reads from it any more.

    unchanging: the file must stay as it was when it was opened, because its digest is checked only then. temporary: the path of a
    file to remove afterwards, where a file that is open can't be removed.
    """

    def __init__(self, descriptor: int, *, unchanging: bool = False) -> None:
        self.descriptor = descriptor
        self.stamp = self._stamp() if unchanging else None
        self.temporary = ""
        self.turn = threading.Lock()  # of the threads that share one position in the file

    def check(self, name: str) -> None:
        """ArtifactError if the file was changed in place."""
        if self.stamp is not None and self._stamp() != self.stamp:
            raise ArtifactError(f"{name}: changed while it was being read")

    def read_into(self, view: memoryview, start: int) -> int:
        """Fill the view, or a part of it, from offset `start`; returns the number of bytes, 0 at the end of the file."""
        if POSITIONED:
            return os.preadv(self.descriptor, [view], start)
        with self.turn:
            os.lseek(self.descriptor, start, os.SEEK_SET)
            data = os.read(self.descriptor, len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, view: memoryview, start: int) -> int:
        """Write the view, or a part of it, at offset `start`; returns the number of bytes."""
        if POSITIONED:
            return os.pwrite(self.descriptor, view, start)
        with self.turn:
            os.lseek(self.descriptor, start, os.SEEK_SET)
            return os.write(self.descriptor, view)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def _stamp(self) -> tuple[int, int]:
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns

    def __del__(self) -> None:
        self.close()
        if self.temporary:
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)


@dataclass(frozen=True)
class FileRows:
    """A tensor in a file: `rows[i]`, `rows[a:b]` and `rows[tensor of numbers]` read from it, in any thread."""

    file: Handle
    name: str  # of the file, for messages
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # offset of its first byte

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._read(range(start, stop))
        if isinstance(rows, Tensor) and rows.ndim:
            return self._read(rows.tolist())
        return self._read([int(rows)])[0]

    def _read(self, rows: Sequence[int]) -> Tensor:
        shape, size = (len(rows), *self.shape[1:]), self.row_bytes
        data = bytearray(len(rows) * size)
        if not data:
            return torch.empty(shape, dtype=self.dtype)
        view = memoryview(data)
        parts = [(rows[0], len(rows))] if isinstance(rows, range) else [(row, 1) for row in rows]
        for place, (row, count) in enumerate(parts):
            _read_into(view[place * size :][: count * size], self.file, self.start + row * size, self.name)
        return torch.frombuffer(data, dtype=self.dtype).view(shape)


class FileTensors(TensorsByRow):
    """The tensors of a file."""

    def __init__(self, in_file: Mapping[str, FileRows]) -> None:
        self._in_file = in_file

    def rows(self, name: str) -> FileRows:
        return self._in_file[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._in_file[name][:]

    def __contains__(self, name: object) -> bool:  # a Mapping's own would read the tensor
        return name in self._in_file

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_file)

    def __len__(self) -> int:
        return len(self._in_file)


def read(source: str, *kinds: str, progress: Progress | None = None) -> Artifact:
    """As `files.read`, but the tensors stay in the file. Standard input and pipes are copied to a temporary file first."""
    one, tensors = _opened(source, kinds, progress)
    return Artifact(one.kind, one.header, tensors, one.history, files.label(source), one.digest)


def describe(source: str, *kinds: str) -> Description:
    """As `files.describe`, but the tensors stay in the file."""
    one, tensors = _opened(source, kinds, None)
    return replace(one, in_file={name: tensors.rows(name) for name in tensors})


def _opened(source: str, kinds: Sequence[str], progress: Progress | None) -> tuple[Description, FileTensors]:
    """A file's header, checked with its digest, and its tensors."""
    name = files.label(source)
    regular = source != STREAM and os.path.isfile(source)
    path = source if regular else _spool(source)
    try:
        file = Handle(os.open(path, BINARY), unchanging=True)
        if not regular and not MOVES_OPEN_FILES:
            file.temporary, regular = path, True
        size = os.fstat(file.descriptor).st_size
        _check_layout(file, path)
    except SafetensorError as error:
        raise not_whole(name, error) from None
    except OSError as error:
        raise ArtifactError(f"{name}: can't be read: {error.strerror}") from None
    finally:
        if not regular:
            os.unlink(path)
    end = header_end(bytes(_read_at(file, 0, 8, name)))
    head = bytes(_read_at(file, 0, end, name))
    one = describe_header(head, _chunks(file, end, size, name, progress), name, *kinds)
    return one, FileTensors(_rows_in(file, one.offsets, one.shapes, end, name))


def _check_layout(file: Handle, path: str) -> None:
    """The library's own check, which reads no tensor."""
    try:
        # by descriptor, as the name may refer to another file by now
        with safe_open(f"/dev/fd/{file.descriptor}", framework="pt"):
            return
    except FileNotFoundError:  # on Windows, and on Linux without /proc
        with safe_open(path, framework="pt"):
            pass


class RowsToFile:
    """The tensors of a new artifact, filled a row at a time, in any order, in its file."""

    def __init__(self, file: IO[bytes], head: bytes, layout: Layout) -> None:
        self.file = Handle(os.dup(file.fileno()))  # stays open after the file is renamed
        shapes = {name: (NAMES[dtype], shape) for name, (dtype, shape) in layout.items()}
        self.rows = _rows_in(self.file, offsets_of(shapes), shapes, len(head), "the new file")
        file.write(head)
        file.truncate(len(head) + sum(rows.row_bytes * len(rows) for rows in self.rows.values()))

    def put(self, name: str, values: Tensor, row: int | None = None) -> None:
        """One row, or all of them."""
        rows = self.rows[name]
        data = values.detach().cpu().to(rows.dtype).contiguous().numpy().tobytes()
        assert len(data) == (rows.row_bytes if row is not None else rows.row_bytes * len(rows)), name
        write_at(self.file, data, rows.start + (row or 0) * rows.row_bytes)

    def put_block(self, name: str, values: Tensor, start: int) -> None:
        """Several rows, from this one."""
        rows = self.rows[name]
        assert values.shape[1:] == rows.shape[1:] and start + len(values) <= len(rows), name
        data = values.detach().cpu().to(rows.dtype).contiguous().numpy().tobytes()
        write_at(self.file, data, rows.start + start * rows.row_bytes)


class RowsToMemory:
    """The same for an artifact that stays in memory."""

    def __init__(self, layout: Layout) -> None:
        self.tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in layout.items()}

    def put(self, name: str, values: Tensor, row: int | None = None) -> None:
        if row is None:
            self.tensors[name].copy_(values)
        else:
            self.tensors[name][row] = values

    def put_block(self, name: str, values: Tensor, start: int) -> None:
        self.tensors[name][start : start + len(values)] = values


class NewArtifact:
    """What `new_artifact` yields: `put` rows within the block; `artifact` is set when the block has ended."""

    def __init__(self, rows: RowsToFile | RowsToMemory) -> None:
        self.put, self._put_block = rows.put, rows.put_block
        self.artifact: Artifact

    def copy(self, name: str, rows: Rows, progress: Progress | None = None) -> None:
        """All rows of a tensor, read a few at a time."""
        size = at_once(rows)
        for start in range(0, len(rows), size):
            self._put_block(name, rows[start : start + size], start)
            if progress:
                progress(f"writing {name}", min(start + size, len(rows)), len(rows))


@contextmanager
def new_artifact(
    target: str | None,
    kind: str,
    header: dict[str, Any],
    history: list[dict[str, Any]],
    layout: Layout,
    progress: Progress | None = None,
) -> Iterator[NewArtifact]:
    """An artifact of known shapes that is filled row by row, in the file `target` ("-" for standard output) or in memory.

    The target appears, or is replaced, when the block ends without an error. The artifact then reads from it.
    """
    if target is None:
        memory = RowsToMemory(layout)
        new = NewArtifact(memory)
        yield new
        new.artifact = Artifact(kind, header, memory.tensors, history)
        return
    shapes = {name: (NAMES[dtype], shape) for name, (dtype, shape) in layout.items()}
    head = serialise_header(kind, header, history, shapes)
    with replacing(target) as file:
        rows = RowsToFile(file, head, layout)
        new = NewArtifact(rows)
        yield new
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(head)
        for chunk in _chunks(rows.file, len(head), size, target, progress, "digest of"):
            digest.update(chunk)
        write_at(rows.file, with_digest(head, digest.hexdigest()), 0)
        reopens = not MOVES_OPEN_FILES and not is_stream(target)
        if reopens:
            rows.file.close()
    if reopens:
        rows.file.descriptor = os.open(target, BINARY)
    new.artifact = Artifact(
        kind, header, FileTensors(rows.rows), history, files.label(target), stored_digest=digest.hexdigest()
    )


def _spool(source: str) -> str:
    """Copy a pipe's content to a temporary file, which can be read at any offset, and return its path."""
    if source == STREAM and sys.stdin.isatty():
        raise ArtifactError(files.TERMINAL)
    folder = temporary_folder()
    try:
        # the file second, so that none is created for a folder or a missing file
        with open(source, "rb") if source != STREAM else contextlib.nullcontext(sys.stdin.buffer) as stream:
            descriptor, path = tempfile.mkstemp(dir=folder)
            with _removed_on_error(path), open(descriptor, "wb", buffering=0) as file:  # closed before it is removed
                while chunk := stream.read(CHUNK):
                    _write(chunk, file, folder)
                if source == STREAM and not file.tell():
                    raise ArtifactError(files.EMPTY)
    except OSError as error:
        raise ArtifactError(f"{files.label(source)}: can't be read: {error.strerror}") from None
    return path


@contextmanager
def _removed_on_error(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.unlink(path)
        raise


def _write(chunk: bytes, file: IO[bytes], folder: str) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise ArtifactError(f"{folder}: can't be written: {error.strerror}") from None


def _rows_in(
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
    """Exactly `count` bytes from offset `start`."""
    data = bytearray(count)
    _read_into(memoryview(data), file, start, name)
    return data


def _read_into(view: memoryview, file: Handle, start: int, name: str) -> None:
    done = 0
    while done < len(view):
        try:
            got = file.read_into(view[done:], start + done)
        except OSError as error:
            raise ArtifactError(f"{name}: can't be read: {error.strerror}") from None
        if not got:
            raise ArtifactError(f"{name}: ends before its last tensor: was it truncated while being read?")
        done += got
    file.check(name)


def _chunks(
    file: Handle, start: int, end: int, name: str, progress: Progress | None = None, label: str = "checking"
) -> Iterator[bytearray]:
    for at in range(start, end, CHUNK):
        yield _read_at(file, at, min(CHUNK, end - at), name)
        if progress:
            progress(f"{label} {os.path.basename(name)}, MiB", (at - start) // CHUNK + 1, -(-(end - start) // CHUNK))


def write_at(file: Handle, data: bytes | memoryview, start: int) -> None:
    """All of `data` from offset `start`."""
    view = memoryview(data)
    while view:
        done = file.write(view, start)
        view, start = view[done:], start + done


def read_any(source: str) -> Artifact:
    """As `read`, for files of any kind. Read whole: models, whose dtypes may not be readable by rows, and standard input."""
    try:
        return files.read(source) if source == STREAM else read(source)
    except KeyError:
        return files.read(source, "model")
