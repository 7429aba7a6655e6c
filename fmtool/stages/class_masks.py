"""Fit one frequency mask per class, plain or robust (paper, sections 4.7 and 4.8)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage
from fmtool.attacks.registry import OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.datasets.rows import spread, to_float
from fmtool.errors import MaskError, warn
from fmtool.masks import class_fitting
from fmtool.masks.basis import basis_for
from fmtool.masks.optimisation import FitOptions
from fmtool.models import compiling
from fmtool.models.classifier import predict
from fmtool.runtime.journal import Journal
from fmtool.stages.device_faults import halving, resuming
from fmtool.stages.fit_masks import check_fit_options
from fmtool.stages.inputs import check_attack, data_header, fitted_data, inputs_of
from fmtool.stages.options import (
    BASIS,
    CLASS_LAMBDA,
    DEFAULT_EXECUTION,
    MAX_STEPS,
    MIN_STEPS,
    ROBUST_CLASS_LAMBDA,
    Execution,
)
from fmtool.stages.prepare import ReadyModel, code_of, ready_model


# Over 60 lines, a third of them signature and docstring.
@halving
def class_masks(
    model: Artifact,
    source: Artifact | Data,
    *,
    robust: bool = False,
    lambda_: float | None = None,
    basis: str = BASIS,
    min_steps: int = MIN_STEPS,
    max_steps: int = MAX_STEPS,
    limit: int | None = None,
    compile_: bool | None = None,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """Class masks from data or from an `attack` artifact's clean images; robust ones need the attack. Gives `class-masks`.

    Plain: a class's correctly classified images keep their label. Robust: each step reverts first the adversarial images that
    are predicted as the class, without failed attacks, then keeps its clean ones. Classes without images are left out.
    lambda_: None for 0.01, or 0.001 with robust. basis: a name of `masks.registry.BASES`. compile_: compile the network; None
    to do so only if there is enough work to repay it.
    """
    execution.refuse("class-masks", "shard", "ranks")
    check_fit_options(lambda_, min_steps, max_steps)
    ready, source = _checked(model, source, robust, execution)
    lambda_in_effect = lambda_ if lambda_ is not None else ROBUST_CLASS_LAMBDA if robust else CLASS_LAMBDA
    fields = {"robust": robust, "lambda": lambda_in_effect, "min_steps": min_steps, "max_steps": max_steps}
    header = {**fields, **_source_header(source, ready, robust, basis)}
    recorded = {
        "--robust": robust or None,
        "--lambda": lambda_in_effect,
        "--basis": basis,
        "--min-steps": min_steps,
        "--max-steps": max_steps,
        "--limit": limit,
        "--compile": compile_,
        **ready.recorded(),
    }
    inputs = inputs_of(model, source)
    work = {"header": header, "history": stage("class-masks", recorded, None, inputs)}
    with resuming(execution, {**work, **code_of(ready.classifier, ready.spec)}) as journal:
        parts = _parts(source, ready, robust, limit, journal)
        if compile_ is None:
            compile_ = compiling.pays(sum(len(part.images) for part in parts) * min_steps, ready.spec.input_shape)
        options = FitOptions(
            lambda_in_effect,
            ready.batch,
            min_steps=min_steps,
            max_steps=max_steps,
            tolerance=class_fitting.CLASS_TOLERANCE,
            compile_=compile_,
            basis=basis,
        )
        fitted = class_fitting.fit_class_masks(
            ready.classifier,
            parts,
            len(ready.spec.class_names),
            options,
            device=ready.device,
            progress=execution.progress,
            journal=journal,
        )
        _warn_of(fitted, parts, header["class_names"])
        classes = (fitted.steps > 0).nonzero().flatten()
        tensors = {"classes": classes, **{name: values[classes] for name, values in vars(fitted).items()}}
        header["images"] = [len(part.images) for part in reversed(parts)]
        history = stage("class-masks", {**recorded, "--compile": compile_}, None, inputs)
        return execution.write(Artifact("class-masks", header, tensors, history))


def _checked(
    model: Artifact, source: Artifact | Data, robust: bool, execution: Execution
) -> tuple[ReadyModel, Artifact | Data]:
    """The model, ready to run, and the source after checking that it suits the model."""
    if robust and isinstance(source, Data):
        raise MaskError("--robust needs an attack file: data alone has no adversarial images")
    ready = ready_model(model, execution)
    if isinstance(source, Data):
        return ready, fitted_data(source, ready.spec)
    check_attack(source, model, ready.spec, execution.allow_other_model)
    return ready, source


def _source_header(source: Artifact | Data, ready: ReadyModel, robust: bool, basis: str) -> dict[str, Any]:
    """The header's fields on the images and on the masks' layout."""
    return {
        "attack": source.header["attack"] if robust and isinstance(source, Artifact) else None,
        "image_size": list(ready.spec.input_shape[1:]),
        "basis": basis_for(basis, *ready.spec.input_shape[1:]).name,
        **data_header(source, ready.spec),
    }


def _parts(
    source: Artifact | Data, ready: ReadyModel, robust: bool, limit: int | None, journal: Journal
) -> list[class_fitting.Part]:
    """What the masks are fitted to: for robust masks the adversarial images, then the clean ones."""
    if isinstance(source, Data):
        right = predict(ready.classifier, source.images, ready.batch, ready.device, journal, "clean") == source.labels
        clean, labels = to_float(source.images[right]), source.labels[right]
    else:
        right = source["status"] != WRONG_BEFORE
        clean, labels = source["images"][right], source["labels"][right]
    rows = spread(labels, limit)
    parts = [class_fitting.Part(clean[rows], labels[rows], labels[rows])]
    if robust and isinstance(source, Artifact):
        parts.insert(0, _turned(source, right.nonzero().flatten()[rows]))
        if not len(parts[0].images):
            raise MaskError(
                f"{source}: no adversarial image is left for robust masks: expected some successful attacks"
            )
    return parts


def _turned(attack: Artifact, rows: Tensor) -> class_fitting.Part:
    """The adversarial images among `rows`, which the mask of their predicted class is to turn back to their true labels."""
    turned = rows[attack["status"][rows] == OK]
    return class_fitting.Part(
        attack["adversarial"][turned], attack["labels"][turned], attack["adversarial_predictions"][turned]
    )


def _warn_of(masks: class_fitting.ClassMasks, parts: list[class_fitting.Part], names: list[str]) -> None:
    fitted = masks.steps > 0
    missing = [name for name, there in zip(names, fitted.tolist(), strict=True) if not there]
    if missing:
        warn(f"no image of {', '.join(missing)}: no mask is fitted to {'it' if len(missing) == 1 else 'them'}")
    for part, what in zip(reversed(parts), ("clean", "adversarial"), strict=False):
        without = [name for number, name in enumerate(names) if fitted[number] and number not in part.owners.tolist()]
        if without:
            warn(f"no {what} image for the masks of {', '.join(without)}: fitted to the other images alone")
    unsettled = int((fitted & ~masks.converged).sum())
    if unsettled:
        warn(
            f"{unsettled} of {int(fitted.sum())} class masks reached the step limit before converging; kept and flagged"
        )
