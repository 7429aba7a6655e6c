"""Fit one frequency mask per class, plain or robust (paper, sections 4.7 and 4.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage, with_option
from fmtool.artifacts.progress import Progress
from fmtool.attacks.registry import OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.datasets.rows import as_float, spread, take
from fmtool.errors import MaskError, warn
from fmtool.masks import class_fitting
from fmtool.masks.basis import basis_for
from fmtool.masks.optimisation import FitOptions
from fmtool.models.classifier import predict
from fmtool.models.foreign_code import own_settings
from fmtool.models.inspection import SLOTS_TRIED
from fmtool.runtime.journal import Journal, Tensors, pack, unpack
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
from fmtool.stages.prepare import ReadyModel, code_of, ready_model, warn_of_slots

SHOWN = 10  # classes named in a warning


# Over 60 lines, a third of them signature and docstring.
@own_settings()
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
    to do so only if there is enough work to repay it. Shards and ranks share the classes.
    """
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
    history = stage("class-masks", recorded, None, inputs_of(model, source))
    # resumed with another limit, a run gives what one with that limit gives
    work = {"header": {**header, "max_steps": None}, "history": with_option(history, "--max-steps", None)}
    shard, ranks = execution.shard, execution.ranks
    asked = {"shard": shard and [shard.number, shard.of], **code_of(ready.classifier, ready.spec)}
    with resuming(execution, {**work, **asked}, agreed=max_steps) as journal:
        parts = _parts(source, ready, robust, limit, journal, execution.progress)
        compile_ = ready.compiles(compile_, 2 * sum(len(part.images) for part in parts) * min_steps)
        options = FitOptions(
            lambda_in_effect,
            ready.batch,
            min_steps=min_steps,
            max_steps=max_steps,
            tolerance=class_fitting.CLASS_TOLERANCE,
            compile_=compile_,
            basis=basis,
        )
        held = sorted(set(torch.cat([part.owners for part in parts]).tolist()))
        classes = held if shard is None else [held[position] for position in shard.rows(len(held), "classes")]
        if shard is not None or ranks.of > 1:
            _try_slots(parts[0], ready)
        own = ranks.rows(classes)
        fitted = class_fitting.fit_class_masks(
            ready.classifier,
            parts,
            own,
            options,
            device=ready.device,
            progress=execution.progress,
            journal=journal,
            agree=ranks.check_form,
        )
        header |= {} if shard is None else {"shard": shard.field(len(held))}
        history = with_option(history, "--compile", fitted.compiled)
        if not ranks.leads:
            ranks.hand_over(_records(fitted, own))
            return Artifact("class-masks", {**header, "images": _counted(parts, classes)}, {}, history)
        columns = (
            fitted.tensors() if ranks.of == 1 else _joined(ranks.gathered(_records(fitted, own), execution.progress))
        )
        tensors = _finite({"classes": torch.tensor(classes), **columns}, header["class_names"], shard is not None)
        header["images"] = _counted(parts, tensors["classes"].tolist())
        _warn_of(tensors, parts, header["class_names"])
        result = execution.write(Artifact("class-masks", header, tensors, history))
        ranks.written()
    return result


def _counted(parts: Sequence[class_fitting.Part], classes: Sequence[int]) -> list[int]:
    """How many clean and, for robust masks, adversarial images these classes' masks are fitted to."""
    return [int(torch.isin(part.owners, torch.tensor(classes)).sum()) for part in reversed(parts)]


def _finite(columns: Tensors, names: Sequence[str], is_shard: bool) -> Tensors:
    """The rows whose masks are finite; a warning names the others. MaskError if none is left, or a shard would lack one."""
    finite = columns["masks"].flatten(1).isfinite().all(dim=1)
    lost = [names[number] for number in columns["classes"][~finite].tolist()]
    if not lost:
        return columns
    why = f"the loss of {', '.join(lost)} is not finite: does the network take images beyond [0, 1], as filtered ones can be?"
    if is_shard or not finite.any():
        raise MaskError(f"{why}{' Fit all classes without --shard, which leaves those out' if is_shard else ''}")
    warn(f"{why} They are left out, and pass the defence unfiltered")
    return {name: values[finite] for name, values in columns.items()}


def _records(masks: class_fitting.ClassMasks, classes: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """A record for each of the `classes`' rows."""
    for row, number in enumerate(classes):
        yield number, pack({name: values[row] for name, values in masks.tensors().items()})


def _joined(records: Iterable[tuple[int, bytes]]) -> Tensors:
    """The rows of all processes, in the order of their classes."""
    rows = [unpack(record) for _, record in sorted(records)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _try_slots(part: class_fitting.Part, ready: ReadyModel) -> None:
    """Warn if an image's gradient may depend on the other images in its batch, and so on the classes that share a process."""
    some = slice(0, SLOTS_TRIED)
    if ready.device.type != "cpu":
        warn(
            "on a GPU a sum of gradients depends on the classes beside it: shards may differ bitwise from a single run"
        )
    else:
        warn_of_slots(ready.classifier, part.images[some], part.targets[some], ready)


def _checked(
    model: Artifact, source: Artifact | Data, robust: bool, execution: Execution
) -> tuple[ReadyModel, Artifact | Data]:
    """The model, ready to run, and the source after checking that it suits the model."""
    if robust and isinstance(source, Data):
        raise MaskError("--robust needs an attack file: data alone has no adversarial images")
    ready = ready_model(model, execution)
    if isinstance(source, Data):
        return ready, fitted_data(source, ready.spec, model)
    check_attack(source, model, ready.spec, execution.allow_other_model, chooses=True)
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
    source: Artifact | Data,
    ready: ReadyModel,
    robust: bool,
    limit: int | None,
    journal: Journal,
    progress: Progress | None,
) -> list[class_fitting.Part]:
    """What the masks are fitted to: for robust masks the adversarial images, then the clean ones."""
    if isinstance(source, Data):
        predictions = predict(ready.classifier, source.images, ready.batch, ready.device, journal, "clean", progress)
        right, images, labels = predictions == source.labels, source.images, source.labels
    else:
        right, images, labels = source["status"] != WRONG_BEFORE, source.rows("images"), source["labels"]
    rows = right.nonzero().flatten()
    if 0 < len(rows) < len(right):
        warn(f"{len(right) - len(rows)} of {len(right)} images are left out: the model gets them wrong")
    rows = rows[spread(labels[rows], limit)]
    parts = [class_fitting.Part(as_float(take(images, rows)), labels[rows], labels[rows])]
    if robust and isinstance(source, Artifact):
        parts.insert(0, _turned(source, rows))
        if not len(parts[0].images):
            raise MaskError(
                f"{source}: no adversarial image is left for robust masks: expected some successful attacks"
            )
    return parts


def _turned(attack: Artifact, rows: Tensor) -> class_fitting.Part:
    """The adversarial images among `rows`, which the mask of their predicted class is to turn back to their true labels."""
    turned = rows[attack["status"][rows] == OK]
    if 0 < len(turned) < len(rows):
        warn(f"{len(rows) - len(turned)} of {len(rows)} attacks failed: of these images only the clean ones are used")
    return class_fitting.Part(
        take(attack.rows("adversarial"), turned), attack["labels"][turned], attack["adversarial_predictions"][turned]
    )


def _warn_of(columns: Tensors, parts: Sequence[class_fitting.Part], names: Sequence[str]) -> None:
    """names: of all classes."""
    owners = [set(part.owners.tolist()) for part in parts]
    missing = [name for number, name in enumerate(names) if not any(number in some for some in owners)]
    if missing:
        warn(f"no image of {_some(missing)}: no mask is fitted to {'it' if len(missing) == 1 else 'them'}")
    for some, what in zip(reversed(owners), ("clean", "adversarial"), strict=False):
        without = [names[number] for number in columns["classes"].tolist() if number not in some]
        if without:
            warn(f"no {what} image for the masks of {_some(without)}: fitted to the other images alone")
    unsettled = int((~columns["converged"]).sum())
    if unsettled:
        warn(
            f"{unsettled} of {len(columns['classes'])} class masks reached the step limit before converging; kept and flagged"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more classes" if len(names) > SHOWN else "")
