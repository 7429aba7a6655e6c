"""Make a `model` artifact from a checkpoint, a torchvision network or a third-party module (paper, section 4.2)."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts import files, history
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.schema import LARGEST_IMAGE
from fmtool.errors import ModelError, warn
from fmtool.models import networks, zoos
from fmtool.models.checkpoints import is_own, load_weights, outputs_of, read_weights
from fmtool.models.classifier import Classifier
from fmtool.models.copies import buffers_of, copied, restore_
from fmtool.models.foreign_code import own_settings, seed_generators
from fmtool.models.inspection import check_outputs, warn_of_flags
from fmtool.models.model_files import (
    Specification,
    check_file,
    check_output,
    float32_output,
    plain_arguments,
    to_artifact,
)
from fmtool.models.networks import TORCHVISION_OUTPUTS
from fmtool.models.registry import ARCHITECTURES, ROBUSTBENCH, Configuration, in_collection, is_factory
from fmtool.stages.device_faults import device_errors

SMALL_IMAGES = (3, 32, 32)
IMAGENET_IMAGES = (3, 224, 224)
LARGEST_NORMALISED = 1.0  # of mean and std: images are in [0, 1]
PUBLISHED = re.compile(r"-([0-9a-f]{8,})\.pth$")  # torchvision's files: the first digits of their sha256
# usual suffixes of checkpoints: a source that has one and doesn't exist is a missing file, not an unknown architecture
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".th", ".safetensors", ".bin", ".ckpt", ".tar", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, read once, so that the recorded digest is that of the loaded weights."""

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

    weights: "file" (those of `checkpoint`), "default" (torchvision's download), "none" (fresh) or "own" (those that the name
    or factory provides).
    """

    architecture: str
    weights: str
    checkpoint: Checkpoint | None = None


# Over 60 lines, half of them signature and docstring.
@own_settings()
@device_errors("a smaller --input-shape")
def import_model(
    source: str,
    *,
    architecture: str | None = None,
    weights: str | None = None,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shape: Sequence[int] | None = None,
    keep_classes: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    factory_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Artifact:
    """source: a checkpoint (needs `architecture`), a network's name, "timm:NAME", "robustbench:NAME" or "package.module:factory".

    weights: "default" (torchvision's download), "none" (fresh, drawn from `seed`) or a checkpoint's path; by default, a factory's
    module keeps its own, and a network of RobustBench gets RobustBench's; fmtool's own architectures have no default.
    pretrained: timm's own weights rather than fresh ones. mean, std: the normalisation put inside the model; a torchvision name
    with default weights or with a checkpoint brings that of its weights, a network of timm that of its configuration.
    keep_classes: the outputs to keep, in the order of the data's classes. factory_options: arguments of the factory, which are
    recorded.
    """
    mean, std = _tuple(mean), _tuple(std)
    seed_generators(seed)
    if pretrained:
        if not in_collection(source) or weights not in (None, "default"):
            raise ModelError("--pretrained goes with timm:NAME or robustbench:NAME, and without --weights")
        weights = "default"
    origin = read_source(os.fspath(source), architecture, weights)
    if origin.weights == "own" and in_collection(origin.architecture):
        warn(
            f"{origin.architecture}: its weights are random: pass --pretrained for timm's own, or --weights none to confirm this"
        )
    given = plain_arguments(factory_options)
    if given and ":" not in origin.architecture:
        raise ModelError("--factory-option goes with package.module:factory, timm:NAME or robustbench:NAME")
    wanted = _wanted(origin, given)
    if in_collection(origin.architecture) and wanted:
        given = wanted.arguments
    shape = _input_shape(input_shape, origin.architecture, wanted)
    if mean is None and std is None and wanted is not None:
        mean, std = wanted.mean, wanted.std
        if mean is not None and len(mean) != shape[0]:
            raise ModelError(
                f"its own weights' normalisation is for {len(mean)} channels, not for {shape[0]}: pass --mean and --std"
            )
        _warn_of_normalisation(origin, wanted)
    elif origin.architecture.startswith(ROBUSTBENCH):
        warn(f"{origin.architecture} normalises its images itself: --mean and --std are applied before that")
    _check_normalisation(mean, std, shape[0])
    as_published = wanted is not None and (wanted.mean, wanted.std) == (_tuple(mean), _tuple(std))
    network, arguments = _network(origin, shape, wanted, as_published, given)
    classes = [int(number) for number in keep_classes] if keep_classes is not None else None
    before = buffers_of(network)
    outputs = _logits_of(network, shape, mean, std)
    count = len(classes) if classes else outputs
    if classes is not None:
        _check_classes(classes, outputs)
    names = tuple(class_names) if class_names is not None else tuple(str(number) for number in range(count))
    changed = restore_(network, before)
    if changed:
        warn(
            f"a forward pass changes {', '.join(changed)} of the network, also in eval mode, so that its logits depend on what "
            "ran before: the model file holds what was given"
        )
    if len(names) != count:
        raise ModelError(f"--class-names: {len(names)} names for {count} classes")
    if not all(names):
        raise ModelError("--class-names: expected a name for each class, one is empty")
    spec = Specification(
        *(origin.architecture, outputs, shape, names, _tuple(mean), _tuple(std), tuple(classes) if classes else None),
        arguments=arguments,
    )
    classifier = Classifier(network, mean, std, classes).eval()
    check_output(copied(classifier), spec, count)
    frozen = copied(classifier).requires_grad_(False)
    warn_of_flags(frozen, shape, torch.device("cpu"))
    options: dict[str, Any] = {
        "--weights": origin.weights if origin.weights in ("default", "none") and not pretrained else None,
        "--pretrained": pretrained or None,
        "--keep-classes": classes,
        "--input-shape": list(shape),
        "--class-names": list(class_names) if class_names else None,
        "--mean": spec.mean and list(spec.mean),
        "--std": spec.std and list(spec.std),
        "--factory-option": given or None,
    }
    checkpoint = origin.checkpoint
    inputs = [checkpoint.record()] if checkpoint else []
    stages = history.stage("import-model", options, seed, inputs, arguments=[origin.architecture])
    model = to_artifact(classifier, spec, stages)
    check_file(model, classifier)
    if checkpoint and is_own(checkpoint.content, checkpoint.path):
        warn(
            f"{checkpoint.path}: is already an fmtool file: only its weights are used, not its normalisation, classes or names"
        )
    return model


def read_source(source: str, architecture: str | None, weights: str | None) -> Origin:
    """The model that SOURCE, --architecture and --weights describe. ModelError if they contradict each other.

    SOURCE is a checkpoint if that file exists, whatever its suffix, unless it is also the name of an architecture.
    """
    named_so = architecture is None and (source in ARCHITECTURES or _is_torchvision(source))
    if os.path.isfile(source) and not named_so:
        if architecture is None:
            raise ModelError(f"{source}: a checkpoint needs --architecture (a name, or package.module:factory)")
        if weights is not None:
            raise ModelError("--weights goes with the name of a network, but SOURCE is a checkpoint")
        return Origin(architecture, "file", Checkpoint(source, files.read_bytes(source)))
    if architecture is not None or (":" not in source and (os.sep in source or source.endswith(CHECKPOINT_SUFFIXES))):
        raise ModelError(
            f"{source}: no such file" + (" (--architecture goes with a checkpoint)" if architecture else "")
        )
    if weights in (None, "default", "none"):
        return Origin(source, weights or ("default" if source.startswith(ROBUSTBENCH) else "own"))
    return Origin(source, "file", Checkpoint(weights, files.read_bytes(weights)))


def _network(
    origin: Origin,
    shape: tuple[int, int, int],
    wanted: Configuration | None,
    as_published: bool,
    given: dict[str, Any],
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, and the arguments that it was built with.

    wanted: see `_wanted`; as_published: the weights are torchvision's, or assumed to be because the normalisation is.
    """
    name, checkpoint, channels = origin.architecture, origin.checkpoint, shape[0]
    if origin.weights in ("default", "own") and name in ARCHITECTURES:
        raise ModelError(f"{name}: has no default weights: give --weights FILE or --weights none")
    if origin.weights in ("default", "none") and is_factory(name):
        raise ModelError(f"--weights {origin.weights}: {name} returns a network with its weights; leave the option out")
    outputs = wanted.outputs if wanted else TORCHVISION_OUTPUTS
    if checkpoint:
        state = read_weights(checkpoint.path, checkpoint.content)
        return _filled(origin, state, shape, outputs, as_published, given)
    if is_factory(name):
        return networks.build_network(name, channels, 0, given), given
    if name in ARCHITECTURES:
        return networks.build_network(name, channels, 10), {}
    if in_collection(name):
        return zoos.build(name, channels, outputs, given, pretrained=origin.weights == "default"), given
    arguments = networks.torchvision_arguments(name, shape, None, own=False)
    network = networks.build_network(name, channels, outputs, arguments)
    return (network, arguments) if origin.weights == "none" else _downloaded(name, shape)


def _filled(
    origin: Origin,
    state: dict[str, Tensor],
    shape: tuple[int, int, int],
    usual_outputs: int,
    as_published: bool,
    given: dict[str, Any],
) -> tuple[nn.Module, dict[str, Any]]:
    """The architecture with the weights of a file and their number of outputs."""
    name, path, channels = origin.architecture, str(origin.checkpoint and origin.checkpoint.path), shape[0]
    arguments = given
    if not is_factory(name) and name not in ARCHITECTURES and not in_collection(name):
        arguments = networks.torchvision_arguments(name, shape, state, as_published)
    network = networks.build_network(name, channels, usual_outputs, arguments)
    outputs = None if is_factory(name) else outputs_of(state, network)
    if outputs not in (None, usual_outputs):
        network = networks.build_network(name, channels, outputs, arguments)
    load_weights(network, state, path)
    others = sorted(
        {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
        - {"float32"}
    )
    if others:
        warn(f"{path}: weights are {', '.join(others)}, and are converted to float32")
    if arguments.get("transform_input"):
        warn(f"{name}: built with transform_input=True, as torchvision builds it for its own weights")
    return network, arguments


def _downloaded(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, dict[str, Any]]:
    """torchvision's network with its default weights."""
    try:
        network = networks.load_torchvision(name).get_model(name, weights="DEFAULT")
    except OSError as error:
        raise ModelError(
            f"{name}: its default weights can't be downloaded ({error}): give --weights FILE or --weights none"
        ) from None
    arguments = networks.torchvision_arguments(name, shape, network.state_dict(), own=True)
    side = getattr(network, "image_size", shape[1])
    if side != shape[1]:
        raise ModelError(
            f"{name}: its default weights are for images of 3x{side}x{side}, not {'x'.join(map(str, shape))} (see --input-shape)"
        )
    return network, arguments


@torch.no_grad()
def _logits_of(
    network: nn.Module, shape: tuple[int, int, int], mean: Sequence[float] | None, std: Sequence[float] | None
) -> int:
    """The number of logits, after converting the network to float32 if it can't take float32 images otherwise."""
    return int(check_outputs(float32_output(Classifier(network, mean, std).eval(), shape)).shape[1])


def _is_torchvision(name: str) -> bool:
    return name.isidentifier() and name in networks.load_torchvision().list_models()


def _wanted(origin: Origin, given: dict[str, Any]) -> Configuration | None:
    """What the weights of torchvision, and the networks of timm and RobustBench want; None for other networks."""
    architecture = origin.architecture
    if in_collection(architecture):
        return zoos.configuration(architecture, given)
    is_other = is_factory(architecture) or architecture in ARCHITECTURES or not _is_torchvision(architecture)
    if is_other or origin.weights == "none":
        return None
    transforms = networks.load_torchvision().get_model_weights(architecture).DEFAULT.transforms()
    mean, std = (_tuple(getattr(transforms, name, None)) for name in ("mean", "std"))
    side = next(iter(getattr(transforms, "crop_size", [])), IMAGENET_IMAGES[1])
    return Configuration((3, side, side), mean, std, TORCHVISION_OUTPUTS, {})


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
    if max((*(mean or ()), *(std or ())), default=0) > LARGEST_NORMALISED:
        warn(
            "--mean and --std exceed 1, but images are in [0, 1]: divide them by 255 if they are for pixels of 0 to 255"
        )


def _warn_of_normalisation(origin: Origin, wanted: Configuration) -> None:
    """Say which normalisation a checkpoint gets that may have been trained with another one, or without any."""
    if not origin.checkpoint or wanted.mean is None or wanted.std is None or _is_published(origin):
        return
    mean, std = (",".join(f"{value:g}" for value in values) for values in (wanted.mean, wanted.std))
    none, one = (",".join(value * len(wanted.mean)) for value in "01")
    library = "timm" if in_collection(origin.architecture) else "torchvision"
    warn(
        f"{origin.checkpoint.path}: images are normalised as for {library}'s own weights (--mean {mean} --std {std}): "
        f"if it was trained otherwise, pass its --mean and --std, or --mean {none} --std {one} for images in [0, 1]"
    )


def _is_published(origin: Origin) -> bool:
    """Whether the checkpoint is torchvision's own file for this architecture, whose names end in the start of their digest."""
    if in_collection(origin.architecture) or not origin.checkpoint:
        return False
    digest = origin.checkpoint.record()["digest"]
    entries = networks.load_torchvision().get_model_weights(origin.architecture)
    starts = [match[1] for entry in entries if (match := PUBLISHED.search(entry.url))]
    return any(digest.startswith(start) for start in starts)


def _check_classes(classes: list[int], outputs: int) -> None:
    if not classes or len(set(classes)) != len(classes) or not all(0 <= number < outputs for number in classes):
        raise ModelError(f"--keep-classes: expected distinct numbers from 0 to {outputs - 1}")


def _input_shape(shape: Sequence[int] | None, name: str, wanted: Configuration | None) -> tuple[int, int, int]:
    usual = SMALL_IMAGES if name in ARCHITECTURES else IMAGENET_IMAGES
    chosen = tuple(map(int, shape)) if shape is not None else usual if wanted is None else wanted.input_shape
    if len(chosen) != 3 or min(chosen) < 1:
        raise ModelError(f"--input-shape {','.join(map(str, chosen))}: expected channels,height,width")
    if math.prod(chosen) > LARGEST_IMAGE:
        raise ModelError(
            f"--input-shape {','.join(map(str, chosen))}: expected at most {LARGEST_IMAGE} values in an image"
        )
    return chosen[0], chosen[1], chosen[2]


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
