"""Train a classifier, or a new last layer of one (paper, section 4.2 and A.2)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage, with_option
from fmtool.datasets.data import Data
from fmtool.datasets.registry import DATASETS
from fmtool.errors import ModelError, unknown, warn
from fmtool.models import compiling, training
from fmtool.models.classifier import (
    NO_CLASS,
    Classifier,
    batch_size,
    pick_device,
    predict,
    prepare,
    warn_unclassified,
)
from fmtool.models.copies import copied
from fmtool.models.foreign_code import generators_kept, own_settings, seed_generators
from fmtool.models.inspection import check_outputs, check_trainable, depends_on_mates, warn_of_flags
from fmtool.models.model_files import (
    Specification,
    build,
    check_file,
    check_output,
    float32_output,
    plain_arguments,
    to_artifact,
    with_head,
)
from fmtool.models.networks import torchvision_arguments
from fmtool.models.registry import in_collection, is_factory
from fmtool.stages.device_faults import device_errors, resuming
from fmtool.stages.inputs import data_input, fitted_data, fitted_images
from fmtool.stages.options import ARCHITECTURE, DEFAULT_EXECUTION, Execution
from fmtool.stages.prepare import code_of, loaded, repeated_options


# Over 60 lines, a third of them signature and docstring.
@own_settings()
@device_errors()
def train_model(
    data: Data,
    test_data: Data | None = None,
    *,
    architecture: str | None = None,
    from_: Artifact | None = None,
    head_only: bool = False,
    recipe: str | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    augment: str | None = None,
    seed: int = 0,
    compile_: bool | None = None,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """Train on `data` and report the accuracy on `test_data`, as a `model` artifact.

    architecture: "resnet20" unless given; not with from_, which has its own. from_: start from this model's weights; with
    head_only its last layer is replaced and trained alone. recipe: a name of `training.RECIPES` ("paper", or "head" with
    head_only); epochs, learning_rate and batch_size, images a training step, override it. augment: "none", "crop" or "flip-crop"
    (default: what suits the data set; "none" with head_only, as in the paper). compile_: compile the network; None to do so only
    if there is enough work to repay it. The features of head_only are computed once, uncompiled.
    """
    execution.refuse("train-model", "batch_size", "allow_other_model", "shard", "ranks")
    data = data if from_ is not None and not head_only else _named(data)  # else they are taken by position
    _check_options(augment, head_only, from_, compile_, architecture, execution)
    recipe = recipe or ("head" if head_only else "paper")
    steps = _recipe(recipe, epochs, learning_rate, batch_size)
    augment = "none" if head_only else augment or _augment_for(data)
    device = pick_device(execution.device)
    seed_generators(seed)  # for fresh weights
    classifier, spec, data = _start(data, architecture or ARCHITECTURE, from_, head_only, execution)
    if test_data is not None:
        test_data = fitted_data(test_data, spec)
    forward_batch = _forward_batch(spec, device)
    if compile_ is None:
        compile_ = not head_only and compiling.pays(len(data) * steps.epochs, spec.input_shape)
    options = {
        "--recipe": recipe,
        **_recipe_options(steps),
        "--augment": augment,
        "--architecture": None if from_ else spec.architecture,
        "--head-only": head_only or None,
        "--compile": compile_,
        "--device": device.type,
        **(
            repeated_options(spec)
            if from_
            else {"--factory-option": plain_arguments(execution.factory_options) or None}
        ),
    }
    history = stage("train-model", options, seed, _inputs(data, test_data, from_))
    # threads share each operation, so rounding depends on their number
    work = {"header": spec.header(), "history": history, "threads": torch.get_num_threads()}
    with resuming(execution, {**work, **code_of(classifier, spec)}) as journal:
        common: dict[str, Any] = {"seed": seed, "device": device, "progress": execution.progress, "journal": journal}
        if head_only:
            training.train_head(classifier, data.images, data.labels, steps, batch=forward_batch, **common)
        else:
            compiled = training.train(
                classifier, data.images, data.labels, steps, augment=augment, compile_=compile_, **common
            )
            history = with_option(history, "--compile", compiled)
        if test_data is not None:
            prepared = prepare(classifier, device, spec.input_shape)
            prepared.padded = not depends_on_mates(prepared, spec.input_shape, device)
            predictions = predict(
                *(prepared, test_data.images, forward_batch, device, journal, "test", execution.progress), strict=False
            )
            spec = dataclasses.replace(spec, accuracy=_accuracy(predictions, test_data.labels))
        result = to_artifact(classifier, spec, history)
        check_file(result, classifier)
        return execution.write(result)


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The share of predictions (n) that is right; a warning counts `NO_CLASS`, as an odd image must not cost the training."""
    lost = int((predictions == NO_CLASS).sum())
    warn_unclassified(lost, len(labels), "images of --test-data", "they count as wrong")
    return float((predictions == labels).double().mean())


def _check_options(
    augment: str | None,
    head_only: bool,
    from_: Artifact | None,
    compile_: bool | None,
    architecture: str | None,
    execution: Execution,
) -> None:
    if from_ is not None and architecture is not None:
        raise ModelError("--architecture: the model of --from has its own; leave it out")
    if from_ is None and execution.factory is not None:
        raise ModelError(
            "--factory goes with --from MODEL; --architecture MODULE:NAME trains a factory's network afresh"
        )
    if head_only and augment not in (None, "none"):
        raise ModelError(f"--augment {augment}: --head-only computes the images' features once, as they are")
    if head_only and compile_:
        raise ModelError("--compile: --head-only computes the images' features once, uncompiled")
    if augment is not None and augment not in training.AUGMENTATIONS:
        raise ModelError(unknown("--augment", augment, training.AUGMENTATIONS))
    if head_only and from_ is None:
        raise ModelError("--head-only needs --from MODEL, the model whose last layer is replaced")


def _recipe_options(recipe: training.Recipe) -> dict[str, Any]:
    """The options that override a field of the recipe, with the values in effect."""
    return {"--epochs": recipe.epochs, "--learning-rate": recipe.learning_rate, "--batch-size": recipe.batch}


def _inputs(data: Data, test_data: Data | None, from_: Artifact | None) -> list[Any]:
    """The inputs that the history names."""
    return [
        *([("--from", from_)] if from_ else []),
        data_input(data),
        *([data_input(test_data, "--test-data")] if test_data else []),
    ]


def _recipe(name: str, epochs: int | None, learning_rate: float | None, batch_size: int | None) -> training.Recipe:
    if name not in training.RECIPES:
        raise ModelError(unknown("recipe", name, training.RECIPES))
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ModelError(f"--learning-rate {learning_rate}: expected a number above 0")
    for option, number in (("--epochs", epochs), ("--batch-size", batch_size)):
        if number is not None and number < 1:
            raise ModelError(f"{option} {number}: expected a number of at least 1")
    overrides: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "batch": batch_size}
    return dataclasses.replace(training.RECIPES[name], **{k: v for k, v in overrides.items() if v is not None})


def _forward_batch(spec: Specification, device: torch.device) -> int:
    """Images per forward pass, for the accuracy and the features; the stage's `batch_size` is that of a training step."""
    return batch_size(spec.input_shape, device)


def _augment_for(data: Data) -> str:
    return DATASETS[data.name].augment if data.name in DATASETS else "flip-crop"


def _named(data: Data) -> Data:
    """The data, with numbers as class names if they have none."""
    if data.class_names:
        return data
    last = data.reach[1] if data.reach else int(data.labels.max())  # of the split, whatever --limit and --rows leave
    warn(f"{data.name}: has no class names: its classes are called 0 to {last}")
    return dataclasses.replace(data, class_names=tuple(map(str, range(last + 1))))


def _start(
    data: Data, architecture: str, base: Artifact | None, head_only: bool, execution: Execution
) -> tuple[Classifier, Specification, Data]:
    """The network that training starts from, and the data as it takes them."""
    given = plain_arguments(execution.factory_options)
    takes_options = is_factory(architecture) or in_collection(architecture)
    if base is None and given and not takes_options:
        raise ModelError("--factory-option goes with package.module:factory, timm:NAME or robustbench:NAME")
    if base is None:
        shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
        known = given if takes_options else torchvision_arguments(architecture, shape, None, own=False)
        spec = Specification(architecture, len(data.class_names), shape, data.class_names, arguments=known)
        classifier = build(spec, factory=architecture, arguments=spec.arguments)
        output = float32_output(classifier, shape)
    else:
        output = None
        classifier, spec = loaded(base, execution)
        data = fitted_images(data, spec)
        if head_only:
            spec = with_head(classifier, spec, data.class_names)
        elif data.class_names and len(spec.class_names) != len(data.class_names):
            raise ModelError(
                f"{base}: has {len(spec.class_names)} classes, {data.name} {len(data.class_names)}: "
                "--head-only replaces its last layer"
            )
        else:
            data = fitted_data(data, spec, base)
        spec = dataclasses.replace(spec, accuracy=None)  # the base's, of other weights
    if len(data) < 2:
        warn(f"{data.name}: trains on {len(data)} image")
    check_output(classifier, spec, len(spec.class_names))
    with generators_kept():  # so that training draws the same whatever is checked
        if not head_only:
            check_trainable(classifier, spec.input_shape)
        if is_factory(spec.architecture):
            _check_foreign(classifier, spec, output)
    return classifier, spec, data


def _check_foreign(classifier: Classifier, spec: Specification, output: Any) -> None:
    """Say of a factory's network what `import-model` says, and refuse one that a model file can't hold before it is trained.

    output: of a fresh network for two images; None of a model file's, of which importing said it.
    """
    if output is not None:
        check_outputs(output)
        warn_of_flags(copied(classifier).requires_grad_(False), spec.input_shape, torch.device("cpu"))
    check_file(to_artifact(classifier, spec, []), classifier)
