"""Images as rows: pixels, keys, seeds, and a choice spread over the classes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fmtool.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
if TYPE_CHECKING:
    from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """(n, c, h, w) uint8 or float to float32 in [0, 1]."""
    import torch

    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def row_keys(images: Tensor) -> Tensor:
    """(n) int64: the first 8 bytes, little endian, of the sha256 of each image's bytes."""
    import torch

    keys = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images.contiguous().numpy()]
    return torch.tensor([int.from_bytes(key, "little", signed=True) for key in keys], dtype=torch.int64)


def spread(labels: Tensor, limit: int | None) -> Tensor:
    """(m) int64 rows, ascending: at most `limit`, taken from the classes in turn, the first of each class first."""
    import torch

    n = len(labels)
    if limit is None or limit >= n:
        return torch.arange(n)
    if limit < 1:
        raise DataError(f"--limit is {limit}, expected at least 1")
    rank = torch.zeros(n, dtype=torch.int64)
    for label in torch.unique(labels):
        rows = (labels == label).nonzero().flatten()
        rank[rows] = torch.arange(len(rows))
    order = torch.argsort(rank * (int(labels.max()) + 1) + labels, stable=True)
    return order[:limit].sort().values


def row_seed(seed: int, key: int, index: int, *trial: int | str) -> int:
    """A 63-bit seed for one image from (seed, key, index), so that shards and orders draw the same numbers.

    trial: which of several draws for the same image.
    """
    digest = hashlib.sha256(" ".join(map(str, (seed, key, index, *trial))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
