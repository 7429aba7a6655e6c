"""Images that stay in their files: rows are decoded on demand, by all cores.

Decoding takes a hundred times as long as reading what was decoded, and a data set is read at least twice: for its digest, and for
each pass through a network. So pixels, once decoded, are kept in a temporary file if the disk has room.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, islice
from shutil import disk_usage
from typing import TYPE_CHECKING, Any, TypeVar

from fmtool.artifacts.progress import Progress
from fmtool.artifacts.rows import IN_MEMORY
from fmtool.datasets.image_files import Look, check_size, decode, look
from fmtool.datasets.source import Encoded
from fmtool.errors import DataError, warn

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fmtool.artifacts.scratch import Scratch

AHEAD = 64  # files queued for threads or for the consumer
ROOM_LEFT = 2  # temporary files may take one part in this of the free disk space
T = TypeVar("T")


class EncodedRows:
    """(n, 3, h, w) uint8, or float32 in [0, 1] where one of the files has more than 8 bits a value; see `artifacts.format.Rows`.

    Memory use does not grow with n.
    """

    def __init__(
        self, files: Sequence[tuple[Encoded, str]], source: str, size: int | None, progress: Progress | None = None
    ) -> None:
        """Look at every file's header; DataError if one can't be read, is too large or differs in size from the first.

        files: names, each with the source that reads it.
        """
        import torch

        self.files, self.source = list(files), source
        looks = []
        for header in spread_out(self._look, self.files):
            looks.append(header)
            if progress:
                progress("looking at images", len(looks), len(self.files))
        self.size = self._common_size(looks, size)
        deep = torch.tensor([one.deep for one in looks], dtype=torch.bool)
        self.shallow = ~deep if deep.any() else None  # (n) bool, rows of float images that their files have in 8 bits
        self.dtype: torch.dtype = torch.uint8 if self.shallow is None else torch.float32
        self.shape = (len(self.files), 3, self.size[1], self.size[0])
        self.pixels = self._kept_pixels()
        self.there = bytearray(len(self.files))  # 1 for rows whose pixels are kept
        several = sum(one.frames > 1 for one in looks)
        if several:
            warn(f"{source}: {several} files hold more than one picture: the first of each is used")

    def _look(self, file: tuple[Encoded, str]) -> Look:
        return look(file[0].read, file[1], self.source)

    def _common_size(self, looks: Sequence[Look], size: int | None) -> tuple[int, int]:
        if not looks:
            return (size or 0, size or 0)
        first = (looks[0].width, looks[0].height) if size is None else (size, size)
        check_size(*first, f"{self.source}: {self.files[0][1]}")
        if size is None:
            other = next(((one.width, one.height) for one in looks if (one.width, one.height) != first), None)
            if other:
                some = f"{first[0]}x{first[1]} and {other[0]}x{other[1]}"
                raise DataError(f"{self.source}: images of mixed sizes ({some}): pass --size to resize them all")
        return first

    def _kept_pixels(self) -> Scratch | None:
        """Where pixels are kept: nowhere if they are few, or if there is no room for all of them."""
        from fmtool.artifacts.output import temporary_folder
        from fmtool.artifacts.scratch import Scratch

        if (
            self.small()
            or math.prod(self.shape) * self.dtype.itemsize > disk_usage(temporary_folder()).free / ROOM_LEFT
        ):
            return None
        return Scratch.fresh(self.shape, self.dtype)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any) -> Tensor:
        """rows: a number, a slice, or a tensor or sequence of numbers or of booleans."""
        import torch

        if isinstance(rows, int) or (isinstance(rows, torch.Tensor) and not rows.ndim):
            return self._image(range(len(self))[int(rows)])
        rows = rows.cpu() if isinstance(rows, torch.Tensor) else rows
        return self._together(torch.arange(len(self), device="cpu")[rows].tolist(), None)

    def decoded(self, progress: Progress | None) -> Tensor:
        """All of them."""
        return self._together(range(len(self)), progress)

    def _together(self, rows: Sequence[int], progress: Progress | None) -> Tensor:
        import numpy as np
        import torch

        if self.pixels is not None and all(self.there[row] for row in rows):
            return self.pixels[torch.tensor(rows, dtype=torch.int64, device="cpu")]
        # NumPy's memory: glibc does not always find that of torch, which is aligned, again, and the heap would grow with n
        kind = np.float32 if self.dtype == torch.float32 else np.uint8
        images = torch.from_numpy(np.empty((len(rows), *self.shape[1:]), kind))
        for place, image in enumerate(spread_out(self._image, rows)):
            images[place] = image
            if progress:
                progress("decoding images", place + 1, len(rows))
        return images

    def _image(self, row: int) -> Tensor:
        import torch

        if self.pixels is not None and self.there[row]:
            return self.pixels[row]
        encoded, name = self.files[row]
        image = torch.from_numpy(decode(encoded.read, name, self.source, self.size, self.dtype == torch.float32))
        if self.pixels is not None:
            self.pixels[row] = image
            self.there[row] = 1
        return image

    def small(self) -> bool:
        """Whether all images together fit into `IN_MEMORY`."""
        return math.prod(self.shape) * self.dtype.itemsize <= IN_MEMORY


def spread_out(work: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """`work` of each item, in order, by as many threads as there are cores; only a few ahead of the consumer."""
    from fmtool.runtime.threads import in_order

    rest = iter(items)
    first = list(islice(rest, 2))
    if len(first) < 2:
        yield from map(work, first)
    else:
        yield from in_order(_threads(), work, chain(first, rest), AHEAD)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, "fmtool-read"
    )
