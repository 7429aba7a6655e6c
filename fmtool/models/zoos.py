"""Networks of other packages by name, "timm:NAME" and "robustbench:NAME". The packages are optional, and imported when needed."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from fmtool.models import robustbench_networks, timm_networks
from fmtool.models.foreign_code import undisturbed
from fmtool.models.registry import ROBUSTBENCH, TIMM, Configuration

ZOOS: dict[str, ModuleType] = {TIMM: timm_networks, ROBUSTBENCH: robustbench_networks}


def configuration(architecture: str, arguments: Mapping[str, Any]) -> Configuration:
    """What the network wants. arguments: the user's --factory-option. ModelError for an unknown name or a missing package."""
    with undisturbed():
        wanted: Configuration = _zoo(architecture).configuration(architecture, arguments)
    return wanted


def build(
    architecture: str, channels: int, outputs: int, arguments: Mapping[str, Any], *, pretrained: bool = False
) -> nn.Module:
    """The network, with fresh weights or with the package's download."""
    with undisturbed():
        network: nn.Module = _zoo(architecture).build(architecture, channels, outputs, arguments, pretrained=pretrained)
    return network


def _zoo(architecture: str) -> ModuleType:
    return ZOOS[architecture.partition(":")[0] + ":"]
