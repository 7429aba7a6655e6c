"""Read and write artifacts whole, from paths and through standard input and output."""

from __future__ import annotations

import os
import struct
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from fmtool.artifacts.format import (
    LARGEST_HEADER,
    METADATA_KEY,
    Artifact,
    Description,
    check_layout,
    describe_header,
    header_end,
    serialise,
    tensors_in,
)
from fmtool.artifacts.output import STREAM, write_bytes
from fmtool.errors import ArtifactError

TERMINAL = "standard input is a terminal: expected a file through a pipe for '-'"
EMPTY = "standard input is empty: expected a file (did the command before the pipe fail?)"


def write(artifact: Artifact, target: str) -> str:
    """Write to a path, replaced only when the new file is whole, or to standard output for "-". Returns the digest."""
    data, digest = serialise(artifact)
    write_bytes(data, os.fspath(target))
    return digest


def read(source: str, *kinds: str, data: bytes | None = None) -> Artifact:
    """Read an artifact of one of these kinds from a path or "-"; digest, fields, dtypes and shapes are checked.

    data: the file's bytes, if already read.
    """
    one = describe(source, *kinds, data=data)
    tensors = tensors_in(one.data, label(source))
    return Artifact(one.kind, one.header, tensors, one.history, label(source), one.digest)


def describe(source: str, *kinds: str, data: bytes | None = None) -> Description:
    """Read and check a file's header and digest without importing torch."""
    name = label(source)
    data = read_bytes(source) if data is None else data
    check_layout(data, name)
    end = header_end(data)
    return replace(describe_header(data[:end], [memoryview(data)[end:]], name, *kinds), data=data)


def read_bytes(source: str) -> bytes:
    """A whole file, or standard input for "-"."""
    try:
        if source != STREAM:
            return Path(source).read_bytes()
        if sys.stdin.isatty():
            raise ArtifactError(TERMINAL)
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise ArtifactError(f"{label(source)}: can't be read: {error.strerror}") from None
    if not data:
        raise ArtifactError(EMPTY)
    return data


def load_pickled(source: str | Path | IO[bytes]) -> Any:
    """What torch.save wrote, on the CPU, without unpickling anything that runs code; torch's errors are left to the caller.

    Sparse tensors whose indices lie outside them are refused, for to_dense() would write past its memory.
    """
    import torch

    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
        warnings.simplefilter("ignore")  # about sparse tensors and old storage formats
        return torch.load(source, map_location="cpu", weights_only=True)


def looks_like_artifact(source: str) -> bool:
    """Whether a path is a regular file whose first bytes look like an fmtool header."""
    try:
        if source == STREAM or not os.path.isfile(source):
            return False
        with open(source, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            return size <= LARGEST_HEADER and f'"{METADATA_KEY}":'.encode() in file.read(size)
    except (OSError, struct.error):
        return False


def is_pipe(source: str) -> bool:
    """Whether a path is neither a regular file nor a folder, such as a pipe or a device: it can be read once."""
    return os.path.exists(source) and not (os.path.isfile(source) or os.path.isdir(source))


def label(source: str) -> str:
    """What messages call a source."""
    return "standard input" if source == STREAM else os.fspath(source)
