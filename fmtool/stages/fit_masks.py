"""Fit one frequency mask an image (paper, sections 3.1 and 4.4)."""

from __future__ import annotations

from typing import Any

import torch

from fmtool import artifacts, mask_fitting
from fmtool.artifacts import Artifact
from fmtool.attacks import OK, WRONG_BEFORE
from fmtool.datasets import Data, spread
from fmtool.errors import MaskError, unknown
from fmtool.models.classifier import predict
from fmtool.stages.common import Progress, Ready, check_attack, check_data, data_header, inputs_of, ready, rows_of, warn

PURPOSES = {
    "essential": "clean images that are classified correctly, to keep their label (M_E)",
    "adversarial": "adversarial images, to keep the class that the attack turned them to (M_A)",
}


def fit_masks(
    model: Artifact,
    source: Artifact | Data,
    for_: str = "essential",
    *,
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
    """Masks for an `attack` artifact's images, or essential masks for data; gives a `masks` artifact of the eligible images.

    for_: "essential": images right when clean, target the label; "adversarial": images with status 0, target the class that
    the attack turned them to. lambda_: None for min(0.5, 1536 / (c h w)). MaskError when no image is eligible.
    """
    if for_ not in PURPOSES:
        raise MaskError(unknown("--for", for_, PURPOSES))
    check_fit_options(lambda_, min_steps, max_steps)
    run = ready(model, device, batch, factory)
    if isinstance(source, Data):
        if for_ == "adversarial":
            raise MaskError("--for adversarial needs an attack file: data alone has no adversarial images")
        check_data(source, run.spec)
        everything = _from_data(source, run)
    else:
        check_attack(source, model, run.spec, allow_other_model)
        everything = _from_attack(source, for_)
    rows = everything.pop("eligible").nonzero().flatten()
    if not len(rows):
        raise MaskError(f"no image is left for {for_} masks: expected {PURPOSES[for_]}")
    rows = rows[spread(everything["labels"][rows], limit)]
    images, targets = everything.pop("pixels")[rows], everything.pop("targets")[rows]
    used = mask_fitting.default_lambda(run.spec.input_shape) if lambda_ is None else lambda_
    options = mask_fitting.FitOptions(used, run.batch, min_steps, max_steps)
    found = mask_fitting.fit_masks(run.classifier, images, targets, options, run.device, progress)
    _warn_of(found, used)
    header = {
        "for": for_,
        "attack": None if isinstance(source, Data) else source.header["attack"],
        "lambda": used,
        "image_size": list(run.spec.input_shape[1:]),
        "basis": "fourier",
        "layer": "input",
        "min_steps": min_steps,
        "max_steps": max_steps,
        **data_header(source, run.spec),
    }
    tensors = {**found.__dict__, "targets": targets, **{name: values[rows] for name, values in everything.items()}}
    recorded = {
        "for": for_,
        "lambda": used,
        "min_steps": min_steps,
        "max_steps": max_steps,
        "limit": limit,
        "batch_size": run.batch,
    }
    history = artifacts.stage("fit-masks", recorded, None, inputs_of(model, source))
    return Artifact("masks", header, tensors, history)


def check_fit_options(lambda_: float | None, min_steps: int, max_steps: int) -> None:
    """MaskError for a negative lambda or steps that can't be."""
    if lambda_ is not None and not 0 <= lambda_ < float("inf"):
        raise MaskError(f"--lambda {lambda_}: expected a number of at least 0")
    if not 0 <= min_steps <= max_steps:
        raise MaskError(f"--min-steps {min_steps}, --max-steps {max_steps}: expected 0 <= min <= max")


def _from_data(data: Data, run: Ready) -> dict[str, Any]:
    pixels = data.pixels()
    right = predict(run.classifier, pixels, run.batch, run.device) == data.labels
    return {"eligible": right, "pixels": pixels, "targets": data.labels, **rows_of(data)}


def _from_attack(attack: Artifact, for_: str) -> dict[str, Any]:
    if for_ == "essential":  # whatever became of the attack
        chosen = (attack["status"] != WRONG_BEFORE, attack["images"], attack["labels"])
    else:
        chosen = (attack["status"] == OK, attack["adversarial"], attack["adversarial_predictions"])
    return {"eligible": chosen[0], "pixels": chosen[1], "targets": chosen[2], **rows_of(attack)}


def _warn_of(found: mask_fitting.FittedMasks, used: float) -> None:
    kept, n = int(found.preserved.sum()), len(found.preserved)
    if kept * 2 < n:
        warn(f"only {kept} of {n} masks preserve their class: lambda {used:g} may be too high, see --lambda")
    unsettled = int((~found.converged).sum())
    if unsettled:
        warn(f"{unsettled} of {n} masks met the limit of steps before the stopping test")
    if bool(torch.isnan(found.loss).any()):
        warn("some masks have a loss that is not a number: check the model on these images")
