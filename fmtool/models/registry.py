"""The tables of our own architectures and of precisions, and what the names of architectures and layers mean.

Importing it needs neither torch nor torchvision; both are loaded when a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network of our own: build(channels, outputs) gives it with fresh weights."""

    build: Callable[[int, int], nn.Module]
    summary: str


def _resnet20(channels: int, outputs: int) -> nn.Module:
    from fmtool.models.resnet import ResNet

    return ResNet(channels, outputs, blocks=3, width=16)


def _resnet8(channels: int, outputs: int) -> nn.Module:
    from fmtool.models.resnet import ResNet

    return ResNet(channels, outputs, blocks=1, width=8)


TIMM, ROBUSTBENCH = "timm:", "robustbench:"  # how the names of these packages' networks begin


@dataclass(frozen=True)
class Configuration:
    """What a published network wants: images (c, h, w), their normalisation unless it is inside, its number of outputs, and the
    arguments that a model file records.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    outputs: int
    arguments: dict[str, Any]


def in_collection(architecture: str) -> bool:
    """Whether an architecture is a network of timm or RobustBench, "timm:NAME" or "robustbench:NAME"."""
    return architecture.startswith((TIMM, ROBUSTBENCH))


def is_factory(architecture: str) -> bool:
    """Whether an architecture names third-party code, "package.module:factory"."""
    return ":" in architecture and not in_collection(architecture)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet20": Architecture(_resnet20, "the paper's CIFAR-10 network, 269,722 parameters"),
    "resnet8": Architecture(_resnet8, "one block a stage, half the width: for small images such as digits"),
}

INPUT = "input"  # the layer that masks of images have
SHOWN = 20  # layers that a list names


def shown_layers(names: Sequence[str]) -> list[str]:
    """The outermost of these layers, as far inside as a list of at most `SHOWN` reaches; the others lie within them."""
    depths = [name.count(".") for name in names]
    fits = [depth for depth in sorted(set(depths)) if sum(one <= depth for one in depths) <= SHOWN]
    deepest = max(fits, default=min(depths, default=0))
    return [name for name, depth in zip(names, depths, strict=True) if depth <= deepest][:SHOWN]


# What the network computes in while masks are fitted, `fit-masks --precision`; the masks themselves are always float32.
Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: dict[Precision, str] = {
    "float32": "strict, also on a GPU",
    "tf32": "matrix products with 10-bit mantissas on a GPU's tensor cores, sums in float32",
    "bfloat16": "torch's autocast, 7-bit mantissas in products and layer outputs; "
    "every 20 steps a float32 pass decides when to stop",
}
