"""A classifier ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Artifact, Rows
from fmtool.errors import ModelError, warn
from fmtool.models import compiled_classifier, compiling
from fmtool.models.classifier import Classifier, batch_size, pick_device, prepare
from fmtool.models.compiled_classifier import Loss
from fmtool.models.equivalence import random_images
from fmtool.models.inspection import depends_on_mates, same_in_any_slot
from fmtool.models.layers import Activations, cut
from fmtool.models.model_files import Specification, from_artifact, plain_arguments
from fmtool.models.networks import device_of
from fmtool.models.registry import INPUT, is_factory
from fmtool.runtime import threads
from fmtool.runtime.journal import Journal
from fmtool.stages.options import Execution

BATCH_DEPENDENT = "--batch-dependent runs it all the same, and results then depend on which images share a batch"


@dataclass(frozen=True)
class ReadyModel:
    """A classifier on its device, folded and frozen, with its specification and the batch size that every stage uses."""

    classifier: Classifier
    spec: Specification
    device: torch.device
    batch: int

    def recorded(self) -> dict[str, Any]:
        """How the network was run, as every history records it, under the command line's names."""
        dependent = None if self.classifier.padded else True
        how = {"--batch-size": self.batch, "--device": self.device.type, "--batch-dependent": dependent}
        return {**how, **repeated_options(self.spec)}

    def compiles(self, asked: bool | None, passes: int) -> bool:
        """Whether to compile the network for so many passes of one image: as asked, or if that pays."""
        if self.classifier.padded:
            return compiling.pays(passes, self.spec.input_shape) if asked is None else asked
        if asked:
            raise ModelError("--compile needs batches of one size, but --batch-dependent doesn't pad them")
        return False

    def network(self, compile_: bool, loss: Loss | None = None, place: Place | None = None) -> nn.Module:
        """The classifier, or that of a place, compiled if so; loss: whose gradients will be asked for."""
        classifier, shape = (place.classifier, place.shape) if place else (self.classifier, self.spec.input_shape)
        if not compile_ or not classifier.padded:
            return classifier
        return compiled_classifier.compiled(classifier, shape, self.batch, self.device, loss)

    def network_as_begun(self, compile_: bool, journal: Journal, loss: Loss | None = None) -> tuple[nn.Module, bool]:
        """The `network`, in the form that it had in the run that is resumed; and whether that is the compiled one."""
        asked = compiling.as_begun(compile_, journal)
        network = self.network(asked, loss)
        compiled = network is not self.classifier  # which it is if the network can't be compiled
        compiling.record_form(compiled, asked, journal)
        return network, compiled


@dataclass(frozen=True)
class Place:
    """Where masks apply: at the images, or at the output of a layer.

    classifier: what is there to logits; shape: that of what is there for one image, (c, h, w); of: images to what is there.
    """

    layer: str
    classifier: Classifier
    shape: tuple[int, int, int]
    of: Callable[[Rows], Rows]


def place_of(layer: str, model: Artifact, ready: ReadyModel, execution: Execution) -> Place:
    """The place of masks at "input" or at a layer. ModelError for a layer at which the network can't be cut."""
    if layer == INPUT:
        return Place(layer, ready.classifier, ready.spec.input_shape, lambda images: images)
    if not ready.classifier.padded:
        raise ModelError(f"--layer {layer}: an image's activations would depend on the other images in its batch")
    given, spec = loaded(model, execution)
    halves = cut(given, layer, spec.input_shape, ready.device)
    return Place(layer, halves.rest, halves.shape, lambda images: Activations(images, halves, ready.device))


def factory_of(spec: Specification) -> str | None:
    """The name that --factory must repeat, if third-party code builds the network."""
    return spec.architecture if is_factory(spec.architecture) else None


def repeated_options(spec: Specification) -> dict[str, Any]:
    """The options that a history records of a factory."""
    factory = factory_of(spec)
    return {"--factory": factory, "--factory-option": (spec.arguments or None) if factory else None}


def loaded(model: Artifact, execution: Execution) -> tuple[Classifier, Specification]:
    """A `model` artifact as a classifier, with the execution's factory; ModelError if no factory built that model."""
    model.expect("model")
    arguments = plain_arguments(execution.factory_options)
    architecture = str(model.header.get("architecture"))
    if (execution.factory or arguments) and not is_factory(architecture):
        option = "--factory" if execution.factory else "--factory-option"
        raise ModelError(f"{option}: {model} is {architecture}, which no factory builds: leave it out")
    return from_artifact(model, factory=execution.factory, arguments=arguments)


def ready_model(model: Artifact, execution: Execution, *, dependent: str = BATCH_DEPENDENT) -> ReadyModel:
    """Load a `model` artifact for attacking and mask fitting.

    dependent: what to say of a network whose logits for an image depend on its batch, unless the execution allows it.
    """
    device = pick_device(execution.ranks.device(execution.device))
    classifier, spec = loaded(model, execution)
    batch = execution.batch_size or batch_size(spec.input_shape, device)
    ready = prepare(classifier, device, spec.input_shape)
    ready.padded = not _depends_on_batch(ready, spec, device, None if execution.batch_dependent else dependent)
    return ReadyModel(ready, spec, device, batch)


def _depends_on_batch(classifier: Classifier, spec: Specification, device: torch.device, refusal: str | None) -> bool:
    """Whether an image's logits depend on its batch: refused unless --batch-dependent allows it, and then told."""
    if not depends_on_mates(classifier, spec.input_shape, device):
        return False
    told = "an image's logits depend on the other images in its batch (batch norms without running statistics?)"
    if refusal is not None:
        raise ModelError(f"{told}: {refusal}")
    warn(f"{told}: batches are not padded, and results depend on which images share one")
    return True


def code_of(classifier: Classifier, spec: Specification) -> dict[str, str]:
    """A digest of the logits on two images, which shows whether a third-party factory still builds the same network."""
    if factory_of(spec) is None:
        return {}
    device = device_of(classifier)
    images = random_images(2, spec.input_shape).to(device)

    @torch.no_grad()
    def digest() -> str:
        return hashlib.sha256(classifier(images).float().cpu().contiguous().numpy().data).hexdigest()

    with threads.pool(device, 1) as pool, torch.random.fork_rng([device] if device.type == "cuda" else []):
        first, second = pool.submit(digest).result(), pool.submit(digest).result()
    return {"network": first} if first == second else {}  # a network that draws random numbers can't be compared


def warn_of_slots(
    classifier: nn.Module, images: Tensor, labels: Tensor, ready: ReadyModel, loss: Loss | None = None
) -> None:
    """Warn if an image's result may depend on the other images in its batch, and so on the shard."""
    if not same_in_any_slot(classifier, images, labels, ready.batch, ready.device, loss):
        warn(
            "here an image's gradient depends on its position in the batch: shards may differ bitwise from a single run"
        )
