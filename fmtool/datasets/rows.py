"""Images as rows: pixels, keys, seeds, a selection spread over the classes, and conversion of channels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.rows import IN_MEMORY, at_once
from fmtool.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fmtool.artifacts.format import Rows
    from fmtool.artifacts.progress import Progress

LUMA = (19595, 38470, 7471)  # ITU-R BT.601 in 1/65536, as Pillow has it; a grey pixel keeps its value


def to_float(images: Tensor) -> Tensor:
    """(n, c, h, w) uint8 or float to float32 in [0, 1]."""
    import torch

    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def row_keys(images: Tensor) -> Tensor:
    """(n) int64: the first 8 bytes, little endian, of the sha256 of each image's bytes."""
    import torch

    keys = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images.contiguous().numpy()]
    return torch.tensor([int.from_bytes(key, "little", signed=True) for key in keys], dtype=torch.int64)


def keys_and_digest(
    images: Rows, labels: Tensor, progress: Progress | None = None, shallow: Tensor | None = None
) -> tuple[Tensor, str]:
    """`row_keys` of all images, and the sha256 over images and labels as hexadecimal digits; reads some images at a time.

    shallow: (n) bool, the rows of float images that were 8-bit pictures; their keys are those of the uint8 pixels, as without
    deeper pictures beside them.
    """
    import torch

    digest, keys = hashlib.sha256(), [torch.zeros(0, dtype=torch.int64)]
    for start, some in in_parts(images):
        digest.update(some.numpy().data)
        keys.append(row_keys(some))
        if shallow is not None:
            here = shallow[start : start + len(some)]
            keys[-1][here] = row_keys((some[here] * 255).round().to(torch.uint8))
        if progress:
            progress("reading images", start + len(some), len(images))
    digest.update(labels.numpy().data)
    return torch.cat(keys), digest.hexdigest()


def in_parts(images: Rows) -> Iterator[tuple[int, Tensor]]:
    """The first row of each part, and its images, contiguous: as many as suit memory."""
    size = at_once(images)
    for start in range(0, len(images), size):
        yield start, images[start : start + size].contiguous()


def parse_rows(text: str) -> tuple[int, int | None]:
    """`--rows` FIRST:END as two numbers; without END up to the last row."""
    first, colon, end = text.partition(":")
    try:
        if not colon:
            raise ValueError
        rows = (int(first or 0), int(end) if end else None)
    except ValueError:
        raise DataError(f"--rows {text}: expected FIRST:END, like 40000:50000, counted from 0, END excluded") from None
    return rows


def row_range(rows: tuple[int, int | None], n: int, source: str) -> tuple[int, int]:
    """FIRST and END of `--rows` among n; DataError if out of range."""
    first, end = rows[0], n if rows[1] is None else rows[1]
    if not 0 <= first < end <= n:
        raise DataError(f"{source}: --rows {first}:{end}, expected rows of 0:{n}")
    return first, end


def spread(labels: Tensor, limit: int | None) -> Tensor:
    """(m) int64 rows, ascending: at most `limit`, taken from the classes in turn, the first of each class first.

    The classes' turns are in bit-reversed order (0, 8, 4, 2, 6, 1, ... of 10), so that a last round that doesn't reach them all
    is spread over the labels too, whose order may mean something: ImageNet begins with 398 animals. A greater limit adds rows.
    """
    import torch

    n = len(labels)
    if limit is None or limit >= n:
        return torch.arange(n)
    if limit < 1:
        raise DataError(f"--limit is {limit}, expected at least 1")
    classes = torch.unique(labels).tolist()
    bits = len(classes).bit_length()
    turn = torch.zeros(n, dtype=torch.int64)
    for place, label in enumerate(classes):
        rows = (labels == label).nonzero().flatten()
        turn[rows] = (torch.arange(len(rows)) << bits) + int(f"{place:0{bits}b}"[::-1], 2)
    return turn.argsort()[:limit].sort().values


def row_seed(seed: int, key: int, index: int, *trial: int | str) -> int:
    """A 63-bit seed for one image from (seed, key, index), so that shards and orders draw the same numbers.

    trial: distinguishes several draws for the same image.
    """
    digest = hashlib.sha256(" ".join(map(str, (seed, key, index, *trial))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class RowView:
    """Some rows (m) of images, converted on demand; see `artifacts.format.Rows`. dtype: if not that of the images."""

    def __init__(
        self,
        images: Rows,
        rows: Tensor,
        convert: Callable[[Tensor], Tensor],
        channels: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.images, self.rows, self.convert = images, rows, convert
        self.shape, self.dtype = (len(rows), channels, *images.shape[2:]), dtype or images.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Tensor:
        import torch

        chosen = self.rows[rows.cpu() if isinstance(rows, torch.Tensor) else rows]
        if chosen.ndim:
            return self.convert(self.images[chosen])
        return self.convert(self.images[chosen][None])[0]


def as_float(images: Rows) -> Rows:
    """uint8 or float images as float32 in [0, 1]: a tensor if they are few, else converted on demand."""
    import torch

    size = math.prod(images.shape) * torch.float32.itemsize
    if isinstance(images, torch.Tensor) and (images.dtype == torch.float32 or size <= IN_MEMORY):
        return to_float(images)
    return RowView(images, torch.arange(len(images)), to_float, images.shape[1], torch.float32)


def take(images: Rows, rows: Tensor) -> Rows:
    """Some of the images: a tensor if they are one, else a view that reads nothing yet."""
    import torch

    if isinstance(images, torch.Tensor):
        return images[rows]
    return RowView(images, rows, lambda some: some, images.shape[1])


def with_channels(images: Rows, channels: int) -> Rows:
    """Grey images repeated to 3 channels, or the luma of colour images; `images` itself if nothing changes.

    DataError for any other change.
    """
    import torch

    have = int(images.shape[1])
    if have == channels:
        return images
    if (have, channels) not in ((1, 3), (3, 1)):
        raise DataError(f"images have {have} channels, the model takes {channels}")
    convert = _repeated if channels == 3 else luma
    if isinstance(images, torch.Tensor):
        return convert(images)
    return RowView(images, torch.arange(len(images)), convert, channels)


def _repeated(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1).contiguous()


def luma(images: Tensor) -> Tensor:
    """(n, 3, h, w) to (n, 1, h, w) of the same dtype; a pixel whose channels are equal keeps its value."""
    import torch

    red, green, blue = images.unbind(1)
    if images.dtype == torch.uint8:
        parts = (channel.int() * weight for channel, weight in zip((red, green, blue), LUMA, strict=True))
        return ((sum(parts, torch.tensor(2**15)) // 2**16).to(torch.uint8))[:, None]
    mixed = sum(
        (channel * (weight / 2**16) for channel, weight in zip((red, green, blue), LUMA, strict=True)),
        torch.tensor(0.0),
    )
    return torch.where((red == green) & (green == blue), red, mixed.clamp(0, 1))[:, None]
