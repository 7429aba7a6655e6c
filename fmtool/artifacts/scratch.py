"""Rows that a computation fills as it goes: in memory if they are few, else in an unnamed temporary file.

The file is read and written with `pread` and `pwrite`, so its pages belong to the system's cache, not to the process.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Rows
from fmtool.artifacts.output import temporary_folder
from fmtool.artifacts.rows import IN_MEMORY
from fmtool.artifacts.streaming import FileRows, Handle, write_at
from fmtool.errors import ArtifactError


class Scratch(FileRows):
    """Rows in a temporary file, zero until they are written; any thread may read some and write others."""

    @classmethod
    def fresh(cls, shape: Sequence[int], dtype: torch.dtype) -> Scratch:
        """ArtifactError if there is no such file."""
        folder = temporary_folder()
        name = f"a temporary file in {folder}"
        with _told(name), tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(math.prod(shape) * dtype.itemsize)
            return cls(Handle(os.dup(file.fileno())), name, dtype, tuple(shape), 0)

    def __setitem__(self, rows: int | Tensor, values: Tensor) -> None:
        """rows: a number, or numbers (m) of rows for the values (m, ...)."""
        numbers = torch.as_tensor(rows)
        single = zip(numbers.tolist(), values, strict=True) if numbers.ndim else [(int(numbers), values)]
        with _told(self.name):
            for row, value in single:
                data = value.detach().cpu().to(self.dtype).contiguous().numpy().data
                write_at(self.file, data.cast("B"), self.start + row * self.row_bytes)


@contextlib.contextmanager
def _told(name: str) -> Any:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{name} can't be written: {error.strerror}: expected more room, or another folder in TMPDIR"
        ) from None


def fresh_rows(shape: Sequence[int], dtype: torch.dtype) -> Tensor | Scratch:
    """Rows (n, ...) of zeros, to be read and written by number."""
    if math.prod(shape) * dtype.itemsize <= IN_MEMORY:
        return torch.zeros(tuple(shape), dtype=dtype)
    return Scratch.fresh(shape, dtype)


def changeable(rows: Rows) -> Tensor | Overlay:
    """A copy of a tensor, or rows that are read from where they are until they are replaced."""
    return rows.clone() if isinstance(rows, Tensor) else Overlay(rows)


class Overlay:
    """Rows of which some are replaced, in memory or in a temporary file; the others are read from `base`."""

    def __init__(self, base: Rows) -> None:
        self.base, self.shape, self.dtype = base, tuple(base.shape), base.dtype
        self.own = fresh_rows(self.shape, self.dtype)
        self.replaced = torch.zeros(len(base), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows: Any) -> Tensor:
        numbers = torch.arange(len(self))[rows]
        if not numbers.ndim:
            return self.own[int(numbers)] if self.replaced[numbers] else self.base[int(numbers)]
        mine = self.replaced[numbers]
        if bool(mine.all()):
            return self.own[numbers]
        some = self.base[numbers].clone()
        some[mine] = self.own[numbers[mine]]
        return some

    def __setitem__(self, rows: int | Tensor, values: Tensor) -> None:
        self.own[rows] = values
        self.replaced[rows] = True
