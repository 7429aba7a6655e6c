"""Train a classifier, or a new last layer of one (paper, section 4.2 and A.2)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from fmtool.artifacts import files
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage
from fmtool.datasets.data import Data
from fmtool.datasets.registry import DATASETS
from fmtool.errors import ModelError, unknown, warn
from fmtool.models import compiling, training
from fmtool.models.checkpoints import Specification, build, check_output, from_artifact, to_artifact, with_head
from fmtool.models.classifier import Classifier, batch_size, pick_device, predict, prepare
from fmtool.runtime import resume_file
from fmtool.runtime.progress import Progress
from fmtool.stages.device_faults import device_errors
from fmtool.stages.inputs import check_data, check_shape, data_input
from fmtool.stages.prepare import code_of, factory_of


@device_errors()
def train_model(
    data: Data,
    test: Data | None = None,
    *,
    architecture: str = "resnet20",
    base: Artifact | None = None,
    head_only: bool = False,
    recipe: str | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch: int | None = None,
    augment: str | None = None,
    seed: int = 0,
    device: str = "auto",
    compile_: bool | None = None,
    factory: str | None = None,
    output: str | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Train on `data` and report the accuracy on `test`, as a `model` artifact.

    base: start from this model's weights; with head_only its last layer is replaced and trained alone. recipe: a name of
    `training.RECIPES` ("paper", or "head" with head_only); epochs, learning_rate and batch override it. augment: "none",
    "crop" or "flip-crop" (default: what suits the data set; none with head_only, as in the paper). compile_: compile the
    network; None where there is enough work for that to pay. The features of head_only are computed once, uncompiled.
    output: write the file too ("-" for standard output); the same call goes on from a side file beside it when it was killed,
    unless restart.
    """
    if not data.class_names:
        raise ModelError(f"{data.name}: names no classes, expected class_names in its header to train on it")
    recipe = recipe or ("head" if head_only else "paper")
    chosen = _recipe(recipe, epochs, learning_rate, batch)
    augment = "none" if head_only else augment or _augment_for(data)
    if augment not in training.AUGMENTATIONS:
        raise ModelError(unknown("--augment", augment, training.AUGMENTATIONS))
    if head_only and base is None:
        raise ModelError("--head-only needs --from MODEL, the model whose last layer is replaced")
    where = pick_device(device)
    torch.manual_seed(seed)  # for fresh weights
    classifier, spec = _start(data, architecture, base, head_only, factory)
    if test is not None:
        check_data(test, spec)
    size = batch_size(spec.input_shape, where)
    if compile_ is None:
        compile_ = not head_only and compiling.pays(len(data) * chosen.epochs, spec.input_shape)
    options = {
        "--recipe": recipe,
        "--epochs": chosen.epochs,
        "--learning-rate": chosen.learning_rate,
        "--batch-size": chosen.batch,
        "--augment": augment,
        "--architecture": None if base else spec.architecture,
        "--head-only": head_only or None,
        "--compile": compile_,
        "--device": where.type,
        "--factory": factory_of(spec) if base else None,
    }
    inputs: list[Any] = [
        *([("--from", base)] if base else []),
        data_input(data),
        *([data_input(test, "--test-data")] if test else []),
    ]
    history = stage("train-model", options, seed, inputs)
    # threads share each piece of work, and so round by their number
    work = {
        "header": spec.header(),
        "history": history,
        "threads": torch.get_num_threads(),
        **code_of(classifier, spec),
    }
    with resume_file.resuming(output, work, restart=restart) as journal:
        how: dict[str, Any] = {"seed": seed, "device": where, "progress": progress, "journal": journal}
        if head_only:
            training.train_head(classifier, data.images, data.labels, chosen, batch=size, **how)
        else:
            training.train(classifier, data.images, data.labels, chosen, augment=augment, compile_=compile_, **how)
        if test is not None:
            found = predict(prepare(classifier, where, spec.input_shape), test.pixels(), size, where, journal, "test")
            spec = dataclasses.replace(spec, accuracy=float((found == test.labels).double().mean()))
        made = to_artifact(classifier, spec, history)
        if output is not None:
            files.write(made, output)
    return made


def _recipe(name: str, epochs: int | None, learning_rate: float | None, batch: int | None) -> training.Recipe:
    if name not in training.RECIPES:
        raise ModelError(unknown("recipe", name, training.RECIPES))
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ModelError(f"--learning-rate {learning_rate}: expected a number above 0")
    overrides: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "batch": batch}
    return dataclasses.replace(training.RECIPES[name], **{k: v for k, v in overrides.items() if v is not None})


def _augment_for(data: Data) -> str:
    return DATASETS[data.name].augment if data.name in DATASETS else "flip-crop"


def _start(
    data: Data, architecture: str, base: Artifact | None, head_only: bool, factory: str | None
) -> tuple[Classifier, Specification]:
    if base is None:
        shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
        spec = Specification(architecture, len(data.class_names), shape, data.class_names)
        classifier = build(spec, factory=architecture if ":" in architecture else None)
    else:
        classifier, spec = from_artifact(base, factory=factory)
        check_shape(data.images, spec, data.name)
        if head_only:
            spec = with_head(classifier, spec, data.class_names)
        elif len(spec.class_names) != len(data.class_names):
            raise ModelError(
                f"{base}: has {len(spec.class_names)} classes, {data.name} {len(data.class_names)}: "
                "--head-only replaces its last layer"
            )
    if len(data) < 2:
        warn(f"{data.name}: trains on {len(data)} image")
    check_output(classifier, spec, len(data.class_names))
    return classifier, spec
