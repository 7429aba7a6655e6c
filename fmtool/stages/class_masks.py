"""Fit one frequency mask a class, plain or robust (paper, sections 4.7 and 4.8)."""

from __future__ import annotations

from torch import Tensor

from fmtool.artifacts import files
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage
from fmtool.attacks.registry import OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.datasets.rows import spread, to_float
from fmtool.errors import MaskError, warn
from fmtool.masks import class_fitting
from fmtool.masks.basis import FOURIER
from fmtool.masks.optimisation import MAX_STEPS, MIN_STEPS, FitOptions
from fmtool.models import compiling
from fmtool.models.classifier import predict
from fmtool.runtime import resume_file
from fmtool.runtime.journal import Journal
from fmtool.runtime.progress import Progress
from fmtool.stages.device_faults import halving, note_batch
from fmtool.stages.fit_masks import check_fit_options
from fmtool.stages.inputs import check_attack, check_data, data_header, inputs_of
from fmtool.stages.prepare import Ready, code_of, ready

LAMBDA, ROBUST_LAMBDA = 0.01, 0.001  # A.3


@halving
def class_masks(
    model: Artifact,
    source: Artifact | Data,
    *,
    robust: bool = False,
    lambda_: float | None = None,
    min_steps: int = MIN_STEPS,
    max_steps: int = MAX_STEPS,
    limit: int | None = None,
    device: str = "auto",
    batch: int | None = None,
    compile_: bool | None = None,
    factory: str | None = None,
    allow_other_model: bool = False,
    output: str | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Class masks from data or from an `attack` artifact's clean images; robust ones need the attack. Gives `class-masks`.

    Plain: a class's correctly classified images keep their label. Robust: each step reverts first the adversarial images that
    are predicted as the class, failed attacks left out, then keeps its clean ones. Classes without images are left out.
    compile_: compile the network; None where there is enough work for that to pay. output: write the file too ("-" for standard
    output); the same call goes on from a side file beside it when it was killed, unless restart.
    """
    check_fit_options(lambda_, min_steps, max_steps)
    if robust and isinstance(source, Data):
        raise MaskError("--robust needs an attack file: data alone has no adversarial images")
    run = ready(model, device, batch, factory)
    if isinstance(source, Data):
        check_data(source, run.spec)
    else:
        check_attack(source, model, run.spec, allow_other_model)
    used = lambda_ if lambda_ is not None else ROBUST_LAMBDA if robust else LAMBDA
    fields = {"robust": robust, "lambda": used, "min_steps": min_steps, "max_steps": max_steps}
    header = {
        **fields,
        "attack": source.header["attack"] if robust and isinstance(source, Artifact) else None,
        "image_size": list(run.spec.input_shape[1:]),
        "basis": FOURIER,
        **data_header(source, run.spec),
    }
    recorded = {
        "--robust": robust or None,
        "--lambda": used,
        "--min-steps": min_steps,
        "--max-steps": max_steps,
        "--limit": limit,
        "--compile": compile_,
        **run.recorded(),
    }
    inputs = inputs_of(model, source)
    work = {"header": header, "history": stage("class-masks", recorded, None, inputs)}
    with resume_file.resuming(output, {**work, **code_of(run.classifier, run.spec)}, restart=restart) as journal:
        note_batch(journal)
        parts = _parts(source, run, robust, limit, journal)
        if compile_ is None:
            compile_ = compiling.pays(sum(len(part.images) for part in parts) * min_steps, run.spec.input_shape)
        options = FitOptions(used, run.batch, min_steps, max_steps, class_fitting.CLASS_TOLERANCE, compile_)
        found = class_fitting.fit_class_masks(
            run.classifier, parts, len(run.spec.class_names), options, run.device, progress, journal
        )
        _warn_of(found, parts, header["class_names"])
        fitted = (found.steps > 0).nonzero().flatten()
        tensors = {"classes": fitted, **{name: values[fitted] for name, values in found.__dict__.items()}}
        header["images"] = [len(part.images) for part in reversed(parts)]
        history = stage("class-masks", {**recorded, "--compile": compile_}, None, inputs)
        made = Artifact("class-masks", header, tensors, history)
        if output is not None:
            files.write(made, output)
    return made


def _parts(
    source: Artifact | Data, run: Ready, robust: bool, limit: int | None, journal: Journal
) -> list[class_fitting.Part]:
    """What the masks are fitted to: adversarial images first where they are to be robust, then clean ones."""
    if isinstance(source, Data):
        right = predict(run.classifier, source.images, run.batch, run.device, journal, "clean") == source.labels
        clean, labels = to_float(source.images[right]), source.labels[right]
    else:
        right = source["status"] != WRONG_BEFORE
        clean, labels = source["images"][right], source["labels"][right]
    rows = spread(labels, limit)
    parts = [class_fitting.Part(clean[rows], labels[rows], labels[rows])]
    if robust and isinstance(source, Artifact):
        parts.insert(0, _turned(source, right.nonzero().flatten()[rows]))
        if not len(parts[0].images):
            raise MaskError(f"{source}: no adversarial image is left for robust masks, expected attacks that worked")
    return parts


def _turned(attack: Artifact, rows: Tensor) -> class_fitting.Part:
    """The adversarial images among `rows`: under the mask of the class that they are taken for, back to their true labels."""
    turned = rows[attack["status"][rows] == OK]
    return class_fitting.Part(
        attack["adversarial"][turned], attack["labels"][turned], attack["adversarial_predictions"][turned]
    )


def _warn_of(found: class_fitting.ClassMasks, parts: list[class_fitting.Part], names: list[str]) -> None:
    fitted = found.steps > 0
    missing = [name for name, there in zip(names, fitted.tolist(), strict=True) if not there]
    if missing:
        warn(f"no image for the masks of {', '.join(missing)}: they get none")
    for part, what in zip(reversed(parts), ("clean", "adversarial"), strict=False):
        without = [name for number, name in enumerate(names) if fitted[number] and number not in part.owners.tolist()]
        if without:
            warn(f"no {what} image for the masks of {', '.join(without)}: they rest on the others")
    unsettled = int((fitted & ~found.converged).sum())
    if unsettled:
        warn(f"{unsettled} of {int(fitted.sum())} class masks met the limit of steps; kept and flagged")
