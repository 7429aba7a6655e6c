"""Build networks by name, by factory or from a checkpoint; `model` artifacts to classifiers and back."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import pickletools
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts import files, schema
from fmtool.artifacts.format import Artifact, parse_header, tensors_in
from fmtool.errors import ModelError, unknown
from fmtool.models.classifier import Classifier
from fmtool.models.registry import ARCHITECTURES

CHECKPOINT_SUFFIXES = {".pt", ".pth", ".th", ".safetensors", ".bin", ".ckpt"}
TORCHVISION_OUTPUTS = 1000


@dataclass(frozen=True)
class Specification:
    """All that is needed to build a classifier, and so what a `model` header holds; the weights are apart.

    architecture: a name of our table, a torchvision name, or "package.module:factory". outputs: how many outputs the
    architecture is built with. head: {"layer", "classes"} of the last layer that replaced the original one, or None.
    """

    architecture: str
    outputs: int
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    keep_classes: tuple[int, ...] | None = None
    head: dict[str, Any] | None = None
    accuracy: float | None = None

    def header(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.__dict__.items()}


def specification(header: Mapping[str, Any], name: str) -> Specification:
    """A header's fields; ModelError where they are of the wrong kind or don't fit each other."""
    damaged = schema.damaged("model", header)
    if damaged:
        raise ModelError(f"{name}: its model header is damaged ({', '.join(damaged)})")
    fields: dict[str, Any] = {key: header[key] for key in Specification.__dataclass_fields__ if key in header}
    try:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        found = Specification(**fields)
    except TypeError as error:
        raise ModelError(f"{name}: its model header is damaged ({error})") from None
    outputs = found.outputs if found.head is None else int(found.head["classes"])
    kept, normalised = found.keep_classes, [values for values in (found.mean, found.std) if values is not None]
    wrong = {
        "class_names": len(found.class_names) != (outputs if kept is None else len(kept)),
        "keep_classes": kept is not None and max(kept) >= outputs,
        "mean, std": any(len(values) != found.input_shape[0] for values in normalised),
    }
    if any(wrong.values()):
        fields_ = ", ".join(key for key, is_wrong in wrong.items() if is_wrong)
        raise ModelError(f"{name}: its model header is damaged ({fields_} does not fit the rest)")
    return found


def build(spec: Specification, *, factory: str | None = None) -> Classifier:
    """A classifier with fresh weights. A factory is called only when `factory` repeats its name: a file alone runs no code."""
    if ":" in spec.architecture and factory != spec.architecture:
        raise ModelError(
            f"the model is built by {spec.architecture}, code of somebody's: repeat --factory {spec.architecture} to run it"
        )
    network = build_network(spec.architecture, spec.input_shape[0], spec.outputs)
    if spec.head is not None:
        replace_head(network, int(spec.head["classes"]))
    return Classifier(network, spec.mean, spec.std, spec.keep_classes)


def build_network(architecture: str, channels: int, outputs: int, weights: Any = None) -> nn.Module:
    """A network by its name. weights: torchvision's own, for its names alone."""
    if ":" in architecture:
        return call_factory(architecture)
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture].build(channels, outputs)
    torchvision_models = load_torchvision()
    if architecture not in torchvision_models.list_models():
        known = [*ARCHITECTURES, *torchvision_models.list_models(module=torchvision_models)]
        raise ModelError(unknown("architecture", architecture, known))
    options: dict[str, Any] = {} if weights is not None else {"num_classes": outputs}
    if architecture in ("googlenet", "inception_v3") and weights is None:
        options |= {"aux_logits": False, "init_weights": True}
    network: nn.Module = torchvision_models.get_model(architecture, weights=weights, **options)
    return network


def load_torchvision() -> Any:
    """torchvision.models, with one sentence where torchvision doesn't fit the installed torch."""
    try:
        import torchvision.models
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"torchvision can't be imported ({error}): it needs the torch it was built for, both from the package index"
        ) from None
    return torchvision.models


def call_factory(name: str) -> nn.Module:
    """Call package.module:factory, found on the path or below the current folder; it gives an nn.Module with logits out."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may be the model's file
            made = getattr(importlib.import_module(module_name), attribute)()
    except Exception as error:  # somebody's code may raise anything at all; --debug shows where
        raise ModelError(f"factory {name}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise ModelError(f"factory {name} gave {type(made).__name__}, expected a torch.nn.Module")
    return made


def last_layer(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer, the one that gives the logits."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ModelError("the network has no linear layer: its last layer can't be replaced")
    return layers[-1]


def replace_head(network: nn.Module, classes: int) -> str:
    """Put a fresh linear layer with `classes` outputs in place of the last one. Returns its name."""
    name, old = last_layer(network)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Linear(old.in_features, classes))
    return name


def read_weights(path: str, data: bytes | None = None) -> dict[str, Tensor]:
    """A state dict from .safetensors or from a pickle that holds nothing but tensors and plain containers.

    A nested `state_dict` or `model` is opened, and the `module.` that DataParallel puts before names is removed.
    data: the file's bytes where they have been read already.
    """
    data = files.read_bytes(path) if data is None else data
    if Path(path).suffix == ".safetensors":
        parse_header(data, path)
        found: Any = tensors_in(data, path)
    else:
        found = _unpickle(data, path)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(f"{path}: holds no state dict, expected parameter names with tensors")
    for name, tensor in found.items():
        # a stride of 0 makes any size of one number
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > len(data):
            raise ModelError(f"{path}: {name} is {list(tensor.shape)}, more than the file holds")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _unpickle(data: bytes, path: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storage formats
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        name = next((word for word in text.replace("`", " ").split() if "." in word and "GLOBAL" not in word), "")
        refused = text.partition("GLOBAL ")[2].split(" ")[0].rstrip(".,") or name
        if "GLOBAL" not in text:  # a pickle that torch didn't write
            refused = _first_global(data)
        if refused:
            raise ModelError(
                f"{path}: refused, unpickling it would run code ({refused}): expected a state dict of tensors"
            ) from None
        raise ModelError(f"{path}: not a checkpoint ({text.splitlines()[0][:100]})") from None
    except Exception as error:  # of damaged bytes the unpickler may raise anything at all
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: not a checkpoint ({reason[:100]})") from None


def _first_global(data: bytes) -> str:
    """What a pickle would import first; nothing where it imports nothing, or is none."""
    texts: list[str] = []
    with contextlib.suppress(Exception):  # of damaged bytes the library may raise anything at all
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if operation.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            texts += [argument] if isinstance(argument, str) else []
    return ""


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """ModelError names what is missing, unexpected or of another shape."""
    own = network.state_dict()
    # counters of batches seen: absent from older checkpoints, and nothing reads them
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    extra = [key for key in weights if key not in own]
    other = [
        f"{key} {list(weights[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    problems = [
        f"{what} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("shape", other))
        if names
    ]
    if problems:
        raise ModelError(f"{name}: the weights don't fit the architecture: {'; '.join(problems)}")


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Fill a network; ModelError where the weights are not its own."""
    check_weights(network, weights, name)
    try:
        network.load_state_dict(dict(weights), strict=False)
    except (RuntimeError, TypeError) as error:  # a type of numbers that can't become the network's
        raise ModelError(
            f"{name}: the weights don't fit the architecture: {str(error).splitlines()[-1].strip()}"
        ) from None


def outputs_of(weights: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """How many outputs a checkpoint of this architecture was made with, told by its last linear layer if it has one."""
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        return None
    weight = weights.get(last_layer(network)[0] + ".weight")
    return len(weight) if weight is not None and weight.ndim else None


def to_artifact(classifier: Classifier, spec: Specification, history: list[dict[str, Any]]) -> Artifact:
    """A classifier's weights and specification as a `model` artifact."""
    # clones, because safetensors refuses tied weights
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in classifier.network.state_dict().items()}
    return Artifact("model", spec.header(), tensors, history)


def from_artifact(model: Artifact, *, factory: str | None = None) -> tuple[Classifier, Specification]:
    """A `model` artifact as a classifier in eval mode, not yet folded or frozen."""
    spec = specification(model.header, str(model))
    if ":" not in spec.architecture:
        with torch.device("meta"):  # takes no memory: a header of a few bytes may ask for any number of outputs
            check_weights(build(spec).network, model.tensors, str(model))
    classifier = build(spec, factory=factory)
    load_weights(classifier.network, model.tensors, str(model))
    check_output(classifier, spec, len(spec.class_names))
    return classifier.eval(), spec


def check_output(classifier: Classifier, spec: Specification, classes: int) -> None:
    """One forward pass: the classifier takes images of the input shape and gives `classes` logits."""
    try:
        with torch.no_grad():
            logits = classifier.eval()(torch.full((2, *spec.input_shape), 0.5))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        shape = "x".join(map(str, spec.input_shape))
        raise ModelError(f"the network can't take images of {shape}: {str(error).splitlines()[0]}") from None
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the network gives {got} for two images, expected logits [2, {classes}]")


def with_head(classifier: Classifier, spec: Specification, class_names: Sequence[str]) -> Specification:
    """Replace the last layer in place for new classes. Returns the new specification."""
    layer = replace_head(classifier.network, len(class_names))
    classifier.keep_classes = None
    head = {"layer": layer, "classes": len(class_names)}
    return replace(spec, class_names=tuple(class_names), keep_classes=None, head=head, accuracy=None)
