"""`model` artifacts: a specification that a network is built from again, and its weights."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from fmtool.artifacts import files, schema
from fmtool.artifacts.format import Artifact, serialise
from fmtool.errors import ModelError, warn
from fmtool.models import checkpoints, networks
from fmtool.models.classifier import Classifier
from fmtool.models.copies import buffers_of, copied, restore_
from fmtool.models.equivalence import BATCHES, Reference, random_images
from fmtool.models.layers import layers_of
from fmtool.models.registry import is_factory

OTHER_SHAPES = (
    (3, 224, 224),
    (3, 32, 32),
    (1, 28, 28),
    (3, 299, 299),
    (3, 64, 64),
    (1, 32, 32),
)  # tried for an error message


@dataclass(frozen=True)
class Specification:
    """Everything needed to build a classifier, except the weights; the fields of a `model` header.

    architecture: a name of our table, a torchvision name, or "package.module:factory". outputs: how many outputs the
    architecture is built with. arguments: further keyword arguments that it is built with; None in files of version 0.1.
    head: {"layer", "classes"} of the last layer that replaced the original one, or None.
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
    arguments: dict[str, Any] | None = None

    def header(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.__dict__.items()}


def specification(header: Mapping[str, Any], name: str) -> Specification:
    """A header's fields; ModelError if they have wrong types or contradict each other."""
    damaged = schema.damaged("model", header)
    if damaged:
        raise ModelError(f"{name}: its model header is damaged ({', '.join(damaged)})")
    fields: dict[str, Any] = {key: header[key] for key in Specification.__dataclass_fields__ if key in header}
    try:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        spec = Specification(**fields)
    except TypeError as error:
        raise ModelError(f"{name}: its model header is damaged ({error})") from None
    outputs = spec.outputs if spec.head is None else int(spec.head["classes"])
    normalised = [values for values in (spec.mean, spec.std) if values is not None]
    wrong = {
        "class_names": len(spec.class_names) != (outputs if spec.keep_classes is None else len(spec.keep_classes)),
        "keep_classes": spec.keep_classes is not None and max(spec.keep_classes) >= outputs,
        "mean, std": any(len(values) != spec.input_shape[0] for values in normalised),
    }
    if any(wrong.values()):
        names = ", ".join(key for key, is_wrong in wrong.items() if is_wrong)
        raise ModelError(f"{name}: its model header is damaged ({names} does not fit the rest)")
    return spec


def build(spec: Specification, *, factory: str | None = None, arguments: Mapping[str, Any] | None = None) -> Classifier:
    """A classifier with fresh weights. A factory is called only when name and arguments are repeated: a file alone runs no code.

    factory, arguments: the user's --factory and --factory-option.
    """
    if is_factory(spec.architecture) and (factory, dict(arguments or {})) != (spec.architecture, spec.arguments or {}):
        words = [f"--factory {spec.architecture}"]
        words += [
            f"--factory-option {shlex.quote(f'{name}={value}')}" for name, value in (spec.arguments or {}).items()
        ]
        raise ModelError(
            f"the model is built by {spec.architecture}, third-party code: repeat {' '.join(words)} to run it"
        )
    network = networks.build_network(spec.architecture, spec.input_shape[0], spec.outputs, spec.arguments)
    if spec.head is not None:
        networks.replace_head(network, int(spec.head["classes"]))
    return Classifier(network, spec.mean, spec.std, spec.keep_classes)


def to_artifact(classifier: Classifier, spec: Specification, history: list[dict[str, Any]]) -> Artifact:
    """A classifier's weights and specification as a `model` artifact."""
    state = classifier.network.state_dict()
    other = next((name for name, value in state.items() if not isinstance(value, Tensor) or value.is_quantized), None)
    if other is not None:
        why = "it is no tensor" if other.endswith("_extra_state") else "quantised networks are not supported"
        raise ModelError(f"a model file can't hold {other} of this network: {why}")
    for name, value in state.items():
        if value.is_complex() and value.dtype != torch.complex64:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(f"a model file can't hold {name} of this network, which is {kind}: expected complex64")
    # clones, because safetensors refuses tied weights
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    layers = [one.field() for one in layers_of(classifier, spec.input_shape)]
    return Artifact("model", {**spec.header(), "layers": layers}, tensors, history)


def from_artifact(
    model: Artifact, *, factory: str | None = None, arguments: Mapping[str, Any] | None = None
) -> tuple[Classifier, Specification]:
    """A `model` artifact as a classifier in eval mode, as the author wrote it: neither folded nor frozen."""
    spec = specification(model.header, str(model))
    if not is_factory(spec.architecture):
        _check_weights(model, spec)
    classifier = build(spec, factory=factory, arguments=arguments)
    stored = {tensor.dtype for tensor in model.tensors.values() if tensor.is_floating_point()}
    if stored == {torch.float32}:
        classifier.network.float()  # import-model may have converted a factory's half or double precision
    checkpoints.load_weights(classifier.network, model.tensors, str(model))
    before = buffers_of(classifier.network)
    check_output(classifier, spec, len(spec.class_names))
    restore_(classifier.network, before)
    return classifier.eval(), spec


class _Undrawn(TorchFunctionMode):
    """Leaves weights undrawn: normal numbers on the meta device would import torch's compiler, which takes a second or two."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return arguments[0] if function is Tensor.normal_ else function(*arguments, **(options or {}))


def _check_weights(model: Artifact, spec: Specification) -> None:
    """ModelError unless the weights fit, without taking memory: a header of a few bytes may demand any number of outputs."""
    try:
        with torch.device("meta"), _Undrawn():
            network = build(spec).network
    except ModelError as error:  # RegNets compute their widths with tensors, which hold no values on the meta device
        outputs = int(spec.head["classes"]) if spec.head else spec.outputs
        if not any(tensor.shape[:1] == (outputs,) for tensor in model.tensors.values()):
            raise ModelError(
                f"{model}: the weights don't fit the architecture: none has {outputs} outputs ({error})"
            ) from None
        return
    checkpoints.load_weights(network, model.tensors, str(model))


def check_file(model: Artifact, classifier: Classifier) -> None:
    """ModelError unless the network built from the file alone is the one in memory, in logits and input gradients.

    A network that draws random numbers without torch differs from itself and is accepted: warnings have been given.
    """
    written = files.read("the model file", "model", data=serialise(model)[0])
    again, spec = from_artifact(
        written, factory=str(model.header["architecture"]), arguments=model.header.get("arguments")
    )
    shape, cpu = spec.input_shape, torch.device("cpu")
    given, other = (copied(one).cpu().eval().requires_grad_(False) for one in (classifier, again))
    given.memory_format = torch.contiguous_format
    given.network.to(memory_format=torch.contiguous_format)
    reference = Reference(given, shape, cpu, BATCHES[:1])
    _, difference = reference.compared(lambda one: other if one is given else copied(other).double())
    if difference and not reference.compared(lambda one: one)[1]:
        raise ModelError(f"a model file can't hold this network; built again from the file alone, {difference}")


def check_output(classifier: Classifier, spec: Specification, classes: int) -> None:
    """Check with one forward pass that the classifier takes images of the input shape and gives `classes` logits."""
    logits = first_output(classifier, spec.input_shape, logits=True)
    if logits.shape != (2, classes):
        raise ModelError(f"the network gives {list(logits.shape)} for two images, expected logits [2, {classes}]")


@torch.no_grad()
def first_output(classifier: Classifier, shape: Sequence[int], *, logits: bool = False) -> Any:
    """The output of the network itself, or of the classifier, for two images of (c, h, w).

    ModelError reports what was raised, and a shape that works if the shape is wrong.
    """
    device = networks.device_of(classifier)
    forward = classifier.eval() if logits else classifier.eval().raw

    def outcome(shape: Sequence[int]) -> Any:
        return forward(random_images(2, shape).to(device))

    try:
        output = outcome(shape)
    except ModelError as error:
        channels = None if classifier.mean is None else len(classifier.mean)
        for other in OTHER_SHAPES:
            if other != tuple(shape) and channels in (None, other[0]):
                try:
                    outcome(other)
                except Exception:  # this shape doesn't work either
                    continue
                given, fits = ("x".join(map(str, one)) for one in (shape, other))
                raise ModelError(
                    f"the network doesn't take images of {given}, but does take {fits}, for example: pass the size that it was "
                    f"trained on as --input-shape: {error}"
                ) from error
        raise
    own = [*classifier.network.named_parameters(), *classifier.network.named_buffers()]
    lazy = next((name for name, one in own if is_lazy(one)), None)
    if lazy is not None:
        raise ModelError(
            f"{lazy} of the network has no shape yet, and a forward pass in eval mode gives it none: expected a network that has "
            "run once in training mode"
        )
    return output


def with_head(classifier: Classifier, spec: Specification, class_names: Sequence[str]) -> Specification:
    """Replace the last layer in place for new classes. Returns the new specification."""
    layer = networks.replace_head(classifier.network, len(class_names))
    classifier.keep_classes = None
    head = {"layer": layer, "classes": len(class_names)}
    return replace(spec, class_names=tuple(class_names), keep_classes=None, head=head, accuracy=None)


def plain_arguments(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments as a header holds them. ModelError for values that JSON can't represent."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(arguments or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"--factory-option: expected numbers, text, True, False, None or lists of them ({error})"
        ) from None
    if any(not isinstance(key, str) for value in (arguments or {}).values() for key in _keys_in(value)):
        raise ModelError(
            "--factory-option: expected text for the keys of a dictionary, as a model file keeps no others"
        )
    return plain


def _keys_in(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _keys_in(one)


def float32_output(classifier: Classifier, shape: Sequence[int]) -> Any:
    """`first_output`, after converting the network to float32, in place and with a warning, if it can't take float32 images."""
    try:
        return first_output(classifier, shape)
    except ModelError:
        dtypes = networks.dtypes_of(classifier.network) - {torch.float32}
        if not dtypes:
            raise
        classifier.network.float()
        output = first_output(classifier, shape)
        others = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
        warn(f"the network's weights are {', '.join(others)}, and are converted to float32")
        return output
