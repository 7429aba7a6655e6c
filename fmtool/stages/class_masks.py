"""Fit one frequency mask a class, plain or robust (paper, sections 4.7 and 4.8)."""

from __future__ import annotations

import torch
from torch import Tensor

from fmtool import artifacts, mask_fitting
from fmtool.artifacts import Artifact
from fmtool.attacks import OK, WRONG_BEFORE
from fmtool.datasets import Data, spread
from fmtool.errors import MaskError
from fmtool.models.classifier import predict
from fmtool.stages.common import Progress, check_attack, check_data, data_header, inputs_of, ready, warn
from fmtool.stages.fit_masks import check_fit_options

LAMBDA, ROBUST_LAMBDA = 0.01, 0.001  # A.3


def class_masks(
    model: Artifact,
    source: Artifact | Data,
    *,
    robust: bool = False,
    lambda_: float | None = None,
    min_steps: int = mask_fitting.MIN_STEPS,
    max_steps: int = mask_fitting.MAX_STEPS,
    limit: int | None = None,
    device: str = "auto",
    batch: int | None = None,
    factory: str | None = None,
    allow_other_model: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Class masks from data or from an `attack` artifact's clean images; robust ones need the attack. Gives `class-masks`.

    Plain: a class's correctly classified images keep their label. Robust: each step reverts first the adversarial images that
    are predicted as the class, failed attacks left out, then keeps its clean ones. Classes without images are left out.
    """
    check_fit_options(lambda_, min_steps, max_steps)
    if robust and isinstance(source, Data):
        raise MaskError("--robust needs an attack file: data alone has no adversarial images")
    run = ready(model, device, batch, factory)
    if isinstance(source, Data):
        check_data(source, run.spec)
        right = predict(run.classifier, source.pixels(), run.batch, run.device) == source.labels
        clean, labels = source.pixels()[right], source.labels[right]
    else:
        check_attack(source, model, run.spec, allow_other_model)
        right = source["status"] != WRONG_BEFORE
        clean, labels = source["images"][right], source["labels"][right]
    rows = spread(labels, limit)
    clean, labels = clean[rows], labels[rows]
    used = lambda_ if lambda_ is not None else ROBUST_LAMBDA if robust else LAMBDA
    options = mask_fitting.FitOptions(used, run.batch, min_steps, max_steps, mask_fitting.CLASS_TOLERANCE)
    kept = right.nonzero().flatten()[rows] if robust else None
    fitted: dict[int, mask_fitting.ClassMask] = {}
    count = len(run.spec.class_names)
    for number, name in enumerate(run.spec.class_names):
        parts = [(clean[labels == number], labels[labels == number])]
        if robust and not isinstance(source, Data) and kept is not None:
            parts.insert(0, _turned_to(number, source, kept))
        parts = [part for part in parts if len(part[0])]
        if parts:
            fitted[number] = mask_fitting.fit_class_mask(
                run.classifier, parts, options, run.device, _named(progress, f"class {name} ({number + 1} of {count})")
            )
        if len(parts) < 1 + robust:
            warn(f"class {name}: no {'clean or no adversarial' if robust else 'clean'} image, "
                 + ("its mask rests on the others" if parts else "it gets no mask"))
    return _collect(fitted, model, source, robust, options, run.spec.input_shape, run.spec.class_names, limit)


def _turned_to(number: int, attack: Artifact, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Adversarial images among `rows` that the classifier takes for class `number`, with their true labels."""
    turned = rows[(attack["status"][rows] == OK) & (attack["adversarial_predictions"][rows] == number)]
    return attack["adversarial"][turned], attack["labels"][turned]


def _named(progress: Progress | None, label: str) -> Progress | None:
    return progress and (lambda _, done, total: progress(label, done, total))


def _collect(
    fitted: dict[int, mask_fitting.ClassMask], model: Artifact, source: Artifact | Data, robust: bool,
    options: mask_fitting.FitOptions, shape: tuple[int, int, int], class_names: tuple[str, ...], limit: int | None,
) -> Artifact:
    if not fitted:
        raise MaskError("the model gets none of the images right: no image is left to fit a class mask to")
    found = list(fitted.values())
    unsettled = sum(not one.converged for one in found)
    if unsettled:
        warn(f"{unsettled} of {len(found)} class masks met the limit of steps before the stopping test; kept and flagged")
    fields = {"robust": robust, "lambda": options.lambda_, "min_steps": options.min_steps, "max_steps": options.max_steps}
    header = {
        **fields, "attack": source.header["attack"] if robust and isinstance(source, Artifact) else None,
        "image_size": list(shape[1:]), "class_names": list(class_names), **data_header(source),
    }
    tensors = {
        "masks": torch.stack([one.mask for one in found]),
        "classes": torch.tensor(list(fitted)),
        "steps": torch.tensor([one.steps for one in found]),
        "loss": torch.tensor([one.loss for one in found], dtype=torch.float32),
        "converged": torch.tensor([one.converged for one in found]),
    }
    history = artifacts.stage("class-masks", {**fields, "limit": limit, "batch_size": options.batch}, None,
                              inputs_of(model, source))
    return Artifact("class-masks", header, tensors, history)
