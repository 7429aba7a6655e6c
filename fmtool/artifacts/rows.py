"""Rows of artifacts: joining files by image, shards, and checks of the values in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fmtool.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from fmtool.artifacts.format import Artifact, Rows

ROWS = ("labels", "key", "index", "source")  # tensors of every file that has one row per image
MOST_ROWS = 2**40  # of a job, so that no arithmetic on a forged header overflows
ROWS_OF_FILE = 256  # rows of a file that are read together
BLOCK = 2**23  # bytes of images that are read together
IN_MEMORY = 2**27  # bytes of rows: up to this, they are held in memory


def at_once(rows: Rows) -> int:
    """How many rows may be read together: at most `ROWS_OF_FILE`, and fewer of large images."""
    return min(max(BLOCK // max(math.prod(rows.shape[1:]) * rows.dtype.itemsize, 1), 1), ROWS_OF_FILE)


def shard_of(file: Artifact) -> tuple[int, int, int]:
    """A shard's number, the number of shards, and the number of rows of all shards together."""
    shard = file.header["shard"]
    fields = [shard.get(name) for name in ("number", "of", "rows")] if isinstance(shard, dict) else []
    numbers = [value for value in fields if isinstance(value, int)]
    number, of, rows = numbers if len(numbers) == 3 else (0, 0, 0)
    if not 1 <= number <= min(of, rows) or max(of, rows) > MOST_ROWS:
        raise ArtifactError(f"{file}: its header describes an impossible shard")
    return number, of, rows


def check_no_shard(file: Artifact) -> None:
    """ArtifactError for a shard: a result computed from it would pass for that of the whole job."""
    if "shard" in file.header:
        number, of, _ = shard_of(file)
        raise ArtifactError(f"{file}: is shard {number} of {of}: merge the shards with 'fmtool merge' first")


def check_range(values: Tensor, count: int, name: str) -> None:
    """(n) int64 within [0, count)."""
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < count:
        raise ArtifactError(f"{name} range from {int(values.min())} to {int(values.max())}, expected 0 to {count - 1}")


def check_unit(values: Rows, name: str) -> None:
    """ArtifactError unless the values (n, ...), a tensor or rows of a file, are finite and within [0, 1]; a few at a time."""
    size = at_once(values)
    for start in range(0, len(values), size):
        some = values[start : start + size]
        if some.numel() and not (float(some.min()) >= 0 and float(some.max()) <= 1):
            raise ArtifactError(f"{name}: entries lie outside [0, 1] or are not finite")


def image_names(keys: Any, indices: Any) -> list[tuple[int, int]]:
    """The (key, index) that identifies each row's image; keys, indices: (n) int64 tensors or arrays."""
    return list(zip(keys.tolist(), indices.tolist(), strict=True))


def join(files: Sequence[Artifact]) -> list[Tensor]:
    """For each file, the row numbers (m) int64 of the images that all files share, identified by (key, index), in the first
    file's order.
    """
    import torch

    places = []
    for file in files:
        names = image_names(file["key"], file["index"])
        place = {name: row for row, name in enumerate(names)}
        if len(place) != len(names):
            raise ArtifactError(f"{file}: contains an image twice (key and index are the same)")
        places.append(place)
    shared = list(places[0])
    for number, place in enumerate(places[1:], start=1):
        shared = [name for name in shared if name in place]
        if not shared:
            raise ArtifactError(f"{', '.join(map(str, files[:number]))} and {files[number]} share no image")
    return [torch.tensor([place[name] for name in shared]) for place in places]
