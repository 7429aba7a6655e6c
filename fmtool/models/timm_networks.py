"""Networks of timm by name, with the images and normalisation that its configuration names. timm is an optional package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fmtool.errors import ModelError, first_line, unknown
from fmtool.models.registry import TIMM, Configuration

# arguments of timm that would take weights from elsewhere, which a model file must not do
REFUSED = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def load_timm() -> Any:
    """The package; ModelError says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"timm can't be imported ({error}): install it with pip install timm") from None
    return timm


def configuration(architecture: str, arguments: Mapping[str, Any]) -> Configuration:
    """The configuration of "timm:NAME" that its default weights were trained with."""
    config = _config(architecture)
    c, h, w = config.input_size
    # one output where the network was published without a classifier, which a checkpoint then fills
    outputs = int(config.num_classes or 1)
    return Configuration((c, h, w), tuple(config.mean), tuple(config.std), outputs, dict(arguments))


def _config(architecture: str) -> Any:
    name = _known(architecture)
    try:
        return load_timm().get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:  # of an unknown tag
        raise ModelError(f"{architecture}: {error}: expected a name of timm.list_models(pretrained=True)") from None


def build(
    architecture: str, channels: int, outputs: int, arguments: Mapping[str, Any], *, pretrained: bool = False
) -> nn.Module:
    """The network, with fresh weights or with timm's download."""
    name = _known(architecture)
    refused = [argument for argument in REFUSED if argument in arguments]
    if refused:
        raise ModelError(
            f"{architecture}: --factory-option {refused[0]} is refused, weights come from --pretrained or a checkpoint"
        )
    if pretrained and not _config(architecture).num_classes:
        raise ModelError(
            f"{architecture}: --pretrained: has no classifier, expected a network that was published with one"
        )
    try:
        network: nn.Module = load_timm().create_model(
            name, pretrained=pretrained, num_classes=outputs, in_chans=channels, **arguments
        )
    except Exception as error:  # of a download or of the arguments
        raise ModelError(
            f"{architecture} can't be built{' with its weights' if pretrained else ''}: {first_line(error)}"
        ) from error
    return network


def _known(architecture: str) -> str:
    """The name behind "timm:", of a network that timm itself has: no hub is asked for others."""
    name, timm = architecture.removeprefix(TIMM), load_timm()
    if not timm.is_model(name.partition(".")[0]):
        raise ModelError(unknown("network of timm", name, timm.list_models()))
    return name
