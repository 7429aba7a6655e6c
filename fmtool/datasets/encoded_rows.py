"""Images that stay in their files: rows are decoded on demand, by all cores."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from fmtool.datasets.image_files import Look, check_size, decode, look
from fmtool.datasets.source import Encoded
from fmtool.errors import DataError, warn
from fmtool.runtime.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

AHEAD = 256  # files queued for threads or for the consumer
IN_MEMORY = 2**27  # bytes of decoded images: up to this, images are decoded once
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
        self.dtype: torch.dtype = torch.float32 if any(one.deep for one in looks) else torch.uint8
        self.shape = (len(self.files), 3, self.size[1], self.size[0])
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

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any) -> Tensor:
        """rows: a number, a slice, or a tensor or sequence of numbers or of booleans."""
        import torch

        if isinstance(rows, int) or (isinstance(rows, torch.Tensor) and not rows.ndim):
            return torch.from_numpy(self._decoded(range(len(self))[int(rows)]))
        rows = rows.cpu() if isinstance(rows, torch.Tensor) else rows
        return self._together(torch.arange(len(self))[rows].tolist(), None)

    def decoded(self, progress: Progress | None) -> Tensor:
        """All of them."""
        return self._together(range(len(self)), progress)

    def _together(self, rows: Sequence[int], progress: Progress | None) -> Tensor:
        import torch

        pixels = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for place, image in enumerate(spread_out(self._decoded, rows)):
            pixels[place] = torch.from_numpy(image)
            if progress:
                progress("decoding images", place + 1, len(rows))
        return pixels

    def _decoded(self, row: int) -> np.ndarray[Any, Any]:
        import torch

        encoded, name = self.files[row]
        return decode(encoded.read, name, self.source, self.size, self.dtype == torch.float32)

    def small(self) -> bool:
        """Whether all images together fit into `IN_MEMORY`."""
        return math.prod(self.shape) * self.dtype.itemsize <= IN_MEMORY


def spread_out(work: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """`work` of each item, in order, by as many threads as there are cores; only a few ahead of the consumer."""
    rest = iter(items)
    first = list(islice(rest, AHEAD))
    if len(first) < 2:
        yield from map(work, first)
        return
    waiting = deque(_threads().submit(work, item) for item in first)
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(_threads().submit(work, item) for item in islice(rest, 1))
    finally:
        for job in waiting:
            job.cancel()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, "fmtool-read"
    )
