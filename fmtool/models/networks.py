"""Networks by name or by factory, and their last layer."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.errors import ModelError, unknown
from fmtool.models import zoos
from fmtool.models.foreign_code import undisturbed
from fmtool.models.registry import ARCHITECTURES, in_collection, is_factory

TORCHVISION_OUTPUTS = 1000
# how networks in model files of version 0.1, without arguments, were built
WITHOUT_ARGUMENTS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}


def build_network(
    architecture: str, channels: int, outputs: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A network with fresh weights. arguments: further keyword arguments of its constructor."""
    if is_factory(architecture):
        return call_factory(architecture, arguments or {})
    if in_collection(architecture):
        return zoos.build(architecture, channels, outputs, arguments or {})
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture].build(channels, outputs)
    if arguments is None:
        arguments = WITHOUT_ARGUMENTS.get(architecture, {})
    models = load_torchvision(architecture)
    try:
        network: nn.Module = models.get_model(architecture, weights=None, num_classes=outputs, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError, OSError) as error:
        described = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ModelError(f"{architecture} can't be built{described and f' with {described}'}: {error}") from error
    return network


def torchvision_arguments(
    architecture: str, shape: tuple[int, int, int], weights: Mapping[str, Tensor] | None, own: bool
) -> dict[str, Any]:
    """The constructor's arguments that torchvision derives from its weights, for images of `shape`.

    weights: those that will fill the network, None for fresh ones; own: they are torchvision's, or assumed to be.
    """
    if architecture in ("googlenet", "inception_v3"):
        # auxiliary outputs, for training only, exist if the weights hold them
        auxiliary = any(part.lower().startswith("aux") for name in weights or () for part in name.split("."))
        return {"transform_input": own, "aux_logits": auxiliary, "init_weights": weights is None}
    if architecture.startswith("vit_"):
        if shape[1] != shape[2]:
            raise ModelError(f"--input-shape {','.join(map(str, shape))}: {architecture} takes square images")
        return {"image_size": shape[1]}
    if architecture.startswith("maxvit"):
        return {"input_size": list(shape[1:])}
    return {}


def load_torchvision(architecture: str = "") -> Any:
    """torchvision.models; ModelError if torchvision doesn't fit the installed torch, or has no such architecture."""
    try:
        import torchvision.models as models
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"torchvision can't be imported ({error}): it needs the torch it was built for, both from the package index"
        ) from None
    if architecture and architecture not in models.list_models():
        known = [*ARCHITECTURES, *models.list_models(module=models)]
        raise ModelError(unknown("architecture", architecture, known))
    return models


def call_factory(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call package.module:factory, importable from the path or the current folder, for an nn.Module that outputs logits."""
    module_name, _, attribute = name.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        with undisturbed():
            network = getattr(importlib.import_module(module_name), attribute)(**arguments)
            if isinstance(network, nn.Module):
                network = network.cpu()
                if not isinstance(network, torch.jit.ScriptModule):
                    network.eval()  # which modules made by torch.export refuse
    except SystemExit as error:
        raise ModelError(
            f"factory {name}: its code ends the process: expected a module that can be imported, with what it does as a script "
            "under if __name__ == '__main__'"
        ) from error
    except Exception as error:  # third-party code may raise any exception; --debug shows where
        raise ModelError(f"factory {name}: {str(error) or type(error).__name__}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        # A forward may import from it too; it comes last, to hide nothing that is imported later.
        if folder not in sys.path:
            sys.path.append(folder)
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise ModelError(f"factory {name} returned {type(network).__name__}, expected a torch.nn.Module")
    script = next(
        (part for part, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)), None
    )
    if script is not None:
        raise ModelError(f"factory {name}: {script} is TorchScript: expected the Python module with its weights loaded")
    return network


def device_of(network: nn.Module) -> torch.device:
    """That of its first parameter or buffer; the CPU without any."""
    return next((one.device for one in [*network.parameters(), *network.buffers()]), torch.device("cpu"))


def dtypes_of(network: nn.Module) -> set[torch.dtype]:
    """The floating-point dtypes of a network's parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def last_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the layer that outputs the logits: the last linear one or, if there is none, the last convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        layers = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
        if layers:
            return layers[-1]
    raise ModelError("the network has no linear layer and no convolution: its last layer can't be replaced")


def replace_head(network: nn.Module, classes: int) -> str:
    """Replace the last layer by a fresh one of the same kind with `classes` outputs. Returns its name."""
    name, old = last_layer(network)
    like: dict[str, Any] = {"bias": old.bias is not None, "dtype": old.weight.dtype}
    new: nn.Module
    if isinstance(old, nn.Linear):
        fresh = isinstance(old, nn.LazyLinear)  # it knows its inputs after the first forward
        new = nn.LazyLinear(classes, **like) if fresh else nn.Linear(old.in_features, classes, **like)
    else:
        shape: tuple[Any, ...] = (old.kernel_size, old.stride, old.padding, old.dilation)
        fresh = isinstance(old, nn.LazyConv2d)
        new = nn.LazyConv2d(classes, *shape, **like) if fresh else nn.Conv2d(old.in_channels, classes, *shape, **like)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)
    return name
