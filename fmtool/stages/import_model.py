"""Make a `model` artifact of a checkpoint, a torchvision network or somebody's own module (paper, section 4.2)."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
from collections.abc import Sequence
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
    is_file = Path(source).suffix in CHECKPOINT_SUFFIXES and ":" not in source
    if is_file and architecture is None:
        raise ModelError(f"{source}: a checkpoint needs --architecture (a name, or package.module:factory)")
    if is_file and weights is not None:
        raise ModelError("--weights goes with the name of a network; SOURCE is a checkpoint already")
    name = architecture if is_file and architecture else source
    if is_file and not os.path.isfile(source):
        raise ModelError(f"{source}: no such file")
    if not is_file and architecture is not None:
        suffixes = " ".join(sorted(CHECKPOINT_SUFFIXES))
        raise ModelError(f"--architecture goes with a checkpoint ({suffixes}), which {source} is not")
    checkpoint = source if is_file else weights if weights not in (None, "default", "none") else None
    torch.manual_seed(seed)
    shape = _input_shape(input_shape, name)
    data = files.read_bytes(checkpoint) if checkpoint else b""  # once: what is recorded is what was loaded
    network, outputs = _network(name, shape[0], checkpoint, weights, data)
    if mean is None and std is None and weights != "none" and name not in ARCHITECTURES and ":" not in name:
        mean, std = _torchvision_normalisation(name)
    _check_normalisation(mean, std, shape[0])
    kept = list(keep_classes) if keep_classes is not None else None
    classifier = Classifier(network, mean, std, kept).eval()
    outputs = outputs or _count(Classifier(network, mean, std).eval(), shape)
    count = len(kept) if kept else outputs
    if kept is not None:
        _check_kept(kept, outputs)
    names = tuple(class_names) if class_names else tuple(str(number) for number in range(count))
    if len(names) != count:
        raise ModelError(f"--class-names: {len(names)} names for {count} classes")
    spec = Specification(name, outputs, shape, names, _tuple(mean), _tuple(std), tuple(kept) if kept else None)
    check_output(classifier, spec, count)
    options: dict[str, Any] = {
        "architecture": name,
        "weights": "file" if checkpoint else weights or "own",
        "keep_classes": kept,
        "input_shape": list(shape),
        "class_names": list(class_names) if class_names else None,
        "mean": spec.mean and list(spec.mean),
        "std": spec.std and list(spec.std),
    }
    inputs = (
        [{"name": Path(checkpoint).name, "split": "", "digest": hashlib.sha256(data).hexdigest()}] if checkpoint else []
    )
    return to_artifact(classifier, spec, history.stage("import-model", options, seed, inputs))


def _network(
    name: str, channels: int, checkpoint: str | None, weights: str | None, data: bytes
) -> tuple[nn.Module, int | None]:
    """The filled network and its number of outputs, None where only a forward pass will tell."""
    if ":" in name:
        network = build_network(name, channels, 0)
        if checkpoint:
            load_weights(network, read_weights(checkpoint, data), checkpoint)
        elif weights == "default":
            raise ModelError("--weights default goes with torchvision's names: a factory brings its own weights")
        return network, None
    if checkpoint:
        found = read_weights(checkpoint, data)
        outputs = outputs_of(found, build_network(name, channels, TORCHVISION_OUTPUTS)) or TORCHVISION_OUTPUTS
        network = build_network(name, channels, outputs)
        load_weights(network, found, checkpoint)
        return network, outputs
    if name in ARCHITECTURES:
        if weights == "default":
            raise ModelError(f"{name}: has no default weights: give --weights FILE, or make them with train-model")
        return build_network(name, channels, 10), 10
    if weights == "none":
        return build_network(name, channels, TORCHVISION_OUTPUTS), TORCHVISION_OUTPUTS
    return _downloaded(name, channels)


def _downloaded(name: str, channels: int) -> tuple[nn.Module, int]:
    build_network(name, channels, TORCHVISION_OUTPUTS)  # an unknown name is told before anything is downloaded
    try:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # torch announces downloads; standard output may be the model's file
            network = build_network(name, channels, TORCHVISION_OUTPUTS, weights="DEFAULT")
    except OSError as error:
        raise ModelError(
            f"{name}: its default weights can't be downloaded ({error}): give --weights FILE or --weights none"
        ) from None
    return network, TORCHVISION_OUTPUTS


def _torchvision_normalisation(name: str) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    models = load_torchvision()
    if name not in models.list_models():
        return None, None
    transforms = models.get_model_weights(name).DEFAULT.transforms()
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


def _check_kept(kept: list[int], outputs: int) -> None:
    if not kept or len(set(kept)) != len(kept) or not all(0 <= number < outputs for number in kept):
        raise ModelError(f"--keep-classes: expected different numbers from 0 to {outputs - 1}")


def _input_shape(shape: Sequence[int] | None, name: str) -> tuple[int, int, int]:
    found = tuple(shape) if shape is not None else SMALL_IMAGES if name in ARCHITECTURES else IMAGENET_IMAGES
    if len(found) != 3 or min(found) < 1:
        raise ModelError(f"--input-shape {','.join(map(str, found))}: expected channels,height,width")
    return found[0], found[1], found[2]


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
