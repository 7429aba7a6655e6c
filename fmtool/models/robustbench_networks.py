"""RobustBench's networks by name. They take images in [0, 1] and normalise inside. RobustBench is an optional package."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fmtool.errors import ModelError, first_line, unknown, warn
from fmtool.models.registry import ROBUSTBENCH, Configuration

OPTIONS = ("dataset", "threat_model")  # which of several networks of one name
SIDES = {
    "cifar10": 32,
    "cifar100": 32,
    "imagenet": 224,
}  # pixels, unless the network's preprocessing ends in another size


@dataclass(frozen=True)
class _Entry:
    """A network in RobustBench's table: its name, data set, threat model, the table's values, and its number of outputs."""

    name: str
    dataset: str
    threat_model: str
    values: Mapping[str, Any]
    outputs: int

    @property
    def timm_name(self) -> str:
        """Under which RobustBench registers it with timm, if it does."""
        return f"{self.name}_{self.dataset}_{self.threat_model}".lower().replace("-", "_")


def load_robustbench() -> Any:
    """The module `robustbench.utils`; ModelError says how to install the package."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import robustbench.utils
    except Exception as error:  # it pins an old timm, which newer ones may break
        raise ModelError(
            f"robustbench can't be imported ({error}): install it with "
            "pip install robustbench git+https://github.com/fra31/auto-attack"
        ) from None
    return robustbench.utils


def configuration(architecture: str, arguments: Mapping[str, Any]) -> Configuration:
    """What "robustbench:NAME" wants; where several networks share a name, arguments choose by `OPTIONS`, else it is the first."""
    entry, *others = _entries(architecture, arguments)
    if others:
        elsewhere = ", ".join(f"{other.dataset} {other.threat_model}" for other in others)
        warn(
            f"{architecture}: the one for {entry.dataset} {entry.threat_model} is taken, "
            f"--factory-option dataset=... and threat_model=... choose another ({elsewhere})"
        )
    sizes = re.findall(r"\d+", str(entry.values.get("preprocessing")))
    side = int(sizes[-1]) if sizes else SIDES[entry.dataset]
    chosen = {"dataset": entry.dataset, "threat_model": entry.threat_model}
    return Configuration((3, side, side), None, None, entry.outputs, chosen)


def build(
    architecture: str, channels: int, outputs: int, arguments: Mapping[str, Any], *, pretrained: bool = False
) -> nn.Module:
    """The network, with fresh weights or with RobustBench's, which it looks for in ./models and downloads to it."""
    entry = _entries(architecture, arguments)[0]
    if (channels, outputs) != (3, entry.outputs):
        raise ModelError(
            f"{architecture} takes images of 3 channels and has {entry.outputs} outputs, not {channels} and {outputs}"
        )
    utils = load_robustbench()
    timm = getattr(utils, "timm", None)  # the copy that torchattacks brings along has none
    if entry.values.get("gdrive_id") == "":
        raise ModelError(f"{architecture} is a network of torchvision: import that with its weights as a checkpoint")
    try:
        with warnings.catch_warnings(action="ignore"):
            if pretrained:
                network = utils.load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
            elif timm is not None and timm.is_model(entry.timm_name):
                network = timm.create_model(entry.timm_name, num_classes=entry.outputs)
            else:
                network = entry.values["model"]()
    except Exception as error:  # of a download, or of third-party code
        raise ModelError(
            f"{architecture} can't be built{' with its weights' if pretrained else ''}: {first_line(error)}"
        ) from error
    built: nn.Module = network
    return built


def _entries(architecture: str, arguments: Mapping[str, Any]) -> list[_Entry]:
    """The networks of a name that the arguments allow, in RobustBench's order."""
    name, utils = architecture.removeprefix(ROBUSTBENCH), load_robustbench()
    for option in arguments:
        if option not in OPTIONS:
            raise ModelError(unknown(f"--factory-option of {architecture}", option, OPTIONS))
    table = [
        _Entry(known, dataset.value, threat.value, values, utils.DATASET_CLASSES[dataset])
        for dataset, threats in utils.all_models.items()
        for threat, networks in threats.items()
        for known, values in networks.items()
    ]
    named = [entry for entry in table if entry.name == name]
    if not named:
        raise ModelError(unknown("network of RobustBench", name, sorted({entry.name for entry in table})))
    allowed = [entry for entry in named if all(getattr(entry, option) == arguments[option] for option in arguments)]
    if not allowed:
        there = ", ".join(f"{entry.dataset} {entry.threat_model}" for entry in named)
        asked = " ".join(f"{option}={value}" for option, value in arguments.items())
        raise ModelError(f"{architecture}: no network for {asked}, only for {there}")
    return allowed
