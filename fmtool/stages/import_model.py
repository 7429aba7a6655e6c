"""Make a `model` artifact from a checkpoint, a torchvision network or a third-party module (paper, section 4.2)."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmtool.artifacts import files, history
from fmtool.artifacts.format import Artifact
from fmtool.errors import ModelError
from fmtool.models.checkpoints import (
    CHECKPOINT_SUFFIXES,
    TORCHVISION_OUTPUTS,
    Specification,
    build_network,
    check_output,
    load_torchvision,
    load_weights,
    outputs_of,
    read_weights,
    to_artifact,
)
from fmtool.models.classifier import Classifier
from fmtool.models.registry import ARCHITECTURES

SMALL_IMAGES = (3, 32, 32)
IMAGENET_IMAGES = (3, 224, 224)


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, read once, so that what is recorded is what was loaded."""

    path: str
    content: bytes = field(repr=False)

    def record(self) -> dict[str, str]:
        """The file as an input in a history."""
        return {
            "option": "--weights",
            "name": Path(self.path).name,
            "split": "",
            "digest": hashlib.sha256(self.content).hexdigest(),
        }


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: an architecture (a name, or "package.module:factory") and its weights.

    weights: "file" (those of `checkpoint`), "default" (torchvision's download), "none" (fresh) or "own" (what the name or the
    factory brings).
    """

    architecture: str
    weights: str
    checkpoint: Checkpoint | None = None


def import_model(
    source: str,
    *,
    architecture: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shape: Sequence[int] | None = None,
    keep_classes: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> Artifact:
    """source: a checkpoint (.pt .pth .th .safetensors; needs `architecture`), a name of a network, or "package.module:factory".

    weights: "default" (torchvision's download), "none" (fresh, drawn from `seed`) or a checkpoint's path; for a factory the
    module's own unless told. mean, std: the normalisation put inside the model; a torchvision name with its default weights
    or with a checkpoint brings its weights' own. keep_classes: the outputs to keep, in the order of the data's classes.
    """
    torch.manual_seed(seed)
    origin = read_source(source, architecture, weights)
    shape = _input_shape(input_shape, origin.architecture)
    network, outputs = _network(origin, shape[0])
    if mean is None and std is None and origin.weights != "none":
        mean, std = _own_normalisation(origin.architecture)
    _check_normalisation(mean, std, shape[0])
    classes = list(keep_classes) if keep_classes is not None else None
    classifier = Classifier(network, mean, std, classes).eval()
    outputs = outputs or _count(Classifier(network, mean, std).eval(), shape)
    count = len(classes) if classes else outputs
    if classes is not None:
        _check_classes(classes, outputs)
    names = tuple(class_names) if class_names else tuple(str(number) for number in range(count))
    if len(names) != count:
        raise ModelError(f"--class-names: {len(names)} names for {count} classes")
    spec = Specification(
        origin.architecture, outputs, shape, names, _tuple(mean), _tuple(std), tuple(classes) if classes else None
    )
    check_output(classifier, spec, count)
    options: dict[str, Any] = {
        "--weights": origin.weights if origin.weights in ("default", "none") else None,
        "--keep-classes": classes,
        "--input-shape": list(shape),
        "--class-names": list(class_names) if class_names else None,
        "--mean": spec.mean and list(spec.mean),
        "--std": spec.std and list(spec.std),
    }
    inputs = [origin.checkpoint.record()] if origin.checkpoint else []
    stages = history.stage("import-model", options, seed, inputs, arguments=[origin.architecture])
    return to_artifact(classifier, spec, stages)


def read_source(source: str, architecture: str | None, weights: str | None) -> Origin:
    """What SOURCE, --architecture and --weights name together. ModelError where they contradict each other."""
    if Path(source).suffix in CHECKPOINT_SUFFIXES and ":" not in source:
        if architecture is None:
            raise ModelError(f"{source}: a checkpoint needs --architecture (a name, or package.module:factory)")
        if weights is not None:
            raise ModelError("--weights goes with the name of a network; SOURCE is a checkpoint already")
        if not os.path.isfile(source):
            raise ModelError(f"{source}: no such file")
        return Origin(architecture, "file", Checkpoint(source, files.read_bytes(source)))
    if architecture is not None:
        suffixes = " ".join(sorted(CHECKPOINT_SUFFIXES))
        raise ModelError(f"--architecture goes with a checkpoint ({suffixes}), which {source} is not")
    if weights in (None, "default", "none"):
        return Origin(source, weights or "own")
    return Origin(source, "file", Checkpoint(weights, files.read_bytes(weights)))


def _network(origin: Origin, channels: int) -> tuple[nn.Module, int | None]:
    """The network with its weights and its number of outputs, None where only a forward pass will tell."""
    name, checkpoint = origin.architecture, origin.checkpoint
    if ":" in name:
        if origin.weights == "default":
            raise ModelError("--weights default goes with torchvision's names: a factory brings its own weights")
        network = build_network(name, channels, 0)
        if checkpoint:
            load_weights(network, read_weights(checkpoint.path, checkpoint.content), checkpoint.path)
        return network, None
    if checkpoint:
        state = read_weights(checkpoint.path, checkpoint.content)
        outputs = outputs_of(state, build_network(name, channels, TORCHVISION_OUTPUTS)) or TORCHVISION_OUTPUTS
        network = build_network(name, channels, outputs)
        load_weights(network, state, checkpoint.path)
        return network, outputs
    if name in ARCHITECTURES:
        if origin.weights == "default":
            raise ModelError(f"{name}: has no default weights: give --weights FILE, or make them with train-model")
        return build_network(name, channels, 10), 10
    if origin.weights == "none":
        return build_network(name, channels, TORCHVISION_OUTPUTS), TORCHVISION_OUTPUTS
    return _downloaded(name, channels)


def _downloaded(name: str, channels: int) -> tuple[nn.Module, int]:
    build_network(name, channels, TORCHVISION_OUTPUTS)  # an unknown name is told before anything is downloaded
    try:
        # torch announces downloads, and standard output may be the model's file
        with contextlib.redirect_stdout(sys.stderr):
            network = build_network(name, channels, TORCHVISION_OUTPUTS, weights="DEFAULT")
    except OSError as error:
        raise ModelError(
            f"{name}: its default weights can't be downloaded ({error}): give --weights FILE or --weights none"
        ) from None
    return network, TORCHVISION_OUTPUTS


def _own_normalisation(architecture: str) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Mean and std of torchvision's default weights; None for other networks."""
    if ":" in architecture or architecture in ARCHITECTURES:
        return None, None
    models = load_torchvision()
    if architecture not in models.list_models():
        return None, None
    transforms = models.get_model_weights(architecture).DEFAULT.transforms()
    return getattr(transforms, "mean", None), getattr(transforms, "std", None)


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> None:
    if (mean is None) != (std is None):
        raise ModelError("--mean and --std go together")
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) != channels:
            raise ModelError(f"{option}: {len(values)} numbers for {channels} channels")
    if mean is not None and not all(map(math.isfinite, mean)):
        raise ModelError(f"--mean {','.join(map(str, mean))}: expected finite numbers")
    if std is not None and not all(0 < value < math.inf for value in std):
        raise ModelError(f"--std {','.join(map(str, std))}: expected numbers above 0")


def _check_classes(classes: list[int], outputs: int) -> None:
    if not classes or len(set(classes)) != len(classes) or not all(0 <= number < outputs for number in classes):
        raise ModelError(f"--keep-classes: expected different numbers from 0 to {outputs - 1}")


def _input_shape(shape: Sequence[int] | None, name: str) -> tuple[int, int, int]:
    chosen = tuple(shape) if shape is not None else SMALL_IMAGES if name in ARCHITECTURES else IMAGENET_IMAGES
    if len(chosen) != 3 or min(chosen) < 1:
        raise ModelError(f"--input-shape {','.join(map(str, chosen))}: expected channels,height,width")
    return chosen[0], chosen[1], chosen[2]


@torch.no_grad()
def _count(classifier: Classifier, shape: tuple[int, int, int]) -> int:
    try:
        logits = classifier.eval()(torch.full((1, *shape), 0.5))
        return int(logits.shape[1])
    except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError, IndexError) as error:
        size = "x".join(map(str, shape))
        raise ModelError(
            f"the network can't take images of {size} (see --input-shape): {str(error).splitlines()[0]}"
        ) from None


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
