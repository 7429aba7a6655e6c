"""The data sets that have a name. Nothing heavy is imported to read this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fmtool.datasets.builtin import cifar10, digits, imagenette
from fmtool.datasets.from_path import Raw


@dataclass(frozen=True)
class Source:
    """A data set known by name."""

    load: Callable[[], Raw]
    summary: str
    augment: str  # what `train-model` does to a batch unless told otherwise


DATASETS: dict[str, Source] = {
    "digits": Source(digits, "8x8 handwritten digits, embedded", "none"),
    "cifar10": Source(cifar10, "CIFAR-10, 32x32, downloaded by torchvision", "flip-crop"),
    "imagenette": Source(imagenette, "Imagenette, mixed sizes (needs --size), downloaded by torchvision", "flip-crop"),
}
