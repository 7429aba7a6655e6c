"""Fit one frequency mask per image (paper, sections 3.1 and 4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts import streaming
from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.history import stage, with_option
from fmtool.artifacts.progress import Progress
from fmtool.attacks.registry import OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.datasets.rows import RowView, row_seed, spread, to_float
from fmtool.errors import MaskError, unknown, warn
from fmtool.masks import fitting, levels
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.fit_queue import Fit
from fmtool.masks.objectives import objective
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.registry import LABEL, OBJECTIVES
from fmtool.masks.slots import HALVINGS
from fmtool.models.classifier import predict
from fmtool.models.foreign_code import own_settings
from fmtool.models.registry import INPUT
from fmtool.runtime.journal import Journal, unpack
from fmtool.runtime.shards import Shard
from fmtool.stages.device_faults import halving, resuming
from fmtool.stages.inputs import check_attack, data_header, fitted_data, inputs_of, rows_of
from fmtool.stages.options import (
    BASIS,
    DEFAULT_EXECUTION,
    LAYER,
    MAX_STEPS,
    MIN_STEPS,
    OBJECTIVE,
    PRECISION,
    Execution,
    default_lambda,
)
from fmtool.stages.prepare import Place, ReadyModel, code_of, place_of, ready_model

PURPOSES = {
    "essential": "essential masks are for clean images that are classified correctly, to keep their label (M_E)",
    "adversarial": "adversarial masks are for adversarial images, to keep the wrong class that the attack gave them (M_A)",
}
# Of two ResNet-20 on CIFAR-10, whose largest logits lie 19 and 10 above the mean of all, 75 % of essential masks keep theirs
# where the penalty of a mask of ones is 81 times that height, and 22, 66, 95 and 100 % where it is 154, 61, 31 and 15 times;
# at 38 times, 87 % do, and 78 and 98 % with the logits doubled and halved: lambda may be taken in proportion to the height.
PENALTY = 30.0
HEIGHT_IMAGES = 256  # that the height is the median of
LEAST_PERTURB = 2**-25  # 1 - 2^-25 and anything nearer to 1 rounds to 1 in float32


# Over 60 lines, half of them signature and docstring.
@own_settings()
@halving
def fit_masks(
    model: Artifact,
    source: Artifact | Data,
    *,
    for_: str = "essential",
    lambda_: float | None = None,
    adapt_lambda: bool = False,
    basis: str = BASIS,
    layer: str = LAYER,
    objective: str = OBJECTIVE,
    min_steps: int = MIN_STEPS,
    max_steps: int = MAX_STEPS,
    limit: int | None = None,
    precision: str = PRECISION,
    perturb: float = 0.0,
    seed: int = 0,
    compile_: bool | None = None,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """Masks for an `attack` artifact's images, or essential masks for data; gives a `masks` artifact of the eligible images.

    for_: "essential": images classified correctly when clean, target the label; "adversarial": images with status 0, target the
    class that the attack turned them into. lambda_: None for min(0.5, 1536 / (c h w)), or 0.07 for "invariance".
    adapt_lambda: fit an image whose mask loses its target again, from its start with half the lambda, at most 10 times; the
    artifact then has each image's `lambda`. basis and objective: names of `masks.registry`. layer: "input", or the name of a
    module of the network, whose output (c, h, w) is masked in place of the image; the default of lambda is by its shape.
    precision: see `registry.PRECISIONS`. perturb: start at 1 - perturb * u, u in [0, 1] drawn from `seed` for each image,
    instead of at ones. compile_: compile the network, which rounds differently; None to do so only if there is enough work to
    repay it. With an output the returned artifact reads from that file, and memory does not grow with n. MaskError if no image
    is eligible.
    """
    check_fit_options(lambda_, min_steps, max_steps)
    _check_options(for_, objective, lambda_, adapt_lambda, perturb)
    shard, ranks = execution.shard, execution.ranks
    ready = _ready(model, execution)
    source = _fitted(source, model, for_, ready, execution.allow_other_model)
    if objective != LABEL and not ready.classifier.padded:
        raise MaskError(f"--objective {objective}: an image's unfiltered logits would depend on the rest of its batch")
    place = place_of(layer, model, ready, execution)
    shape = place.shape
    transform = basis_for(basis, *shape[1:])
    options = FitOptions(
        lambda_=default_lambda(shape, objective) if lambda_ is None else lambda_,
        batch=ready.batch,
        min_steps=min_steps,
        max_steps=max_steps,
        compile_=bool(compile_),
        precision=precision,
        basis=basis,
        adapt_lambda=adapt_lambda,
        objective=objective,
    )
    inputs = _Inputs(model, source, ready, place, for_=for_, perturb=perturb, seed=seed, limit=limit)
    asked = {"compile": compile_, "shard": shard and [shard.number, shard.of], **code_of(ready.classifier, ready.spec)}
    with resuming(execution, {"described": _described(options, inputs), **asked}, holds_rows=True) as journal:
        count, rows, known = _chosen(inputs, shard, journal, execution.progress)
        options = replace(options, compile_=ready.compiles(compile_, 2 * count * min_steps))
        header, history = _described(options, inputs)
        header |= {} if shard is None else {"shard": shard.field(count)}
        compiled = fitting.fit_each(
            place.classifier,
            place.of(_images(inputs, rows)),
            known["targets"],
            options,
            _store_in(journal, _columns(header)),
            device=ready.device,
            progress=execution.progress,
            starts=_starts(known, transform, shape[0], perturb, seed),
            rows=ranks.rows(range(len(rows))),
            journal=journal,
            agree=ranks.check_form,
        )
        history = with_option(history, "--compile", compiled)
        masks, columns = _joined(journal, header, history, known, (shape[0], *transform.shape), execution)
    if ranks.leads:
        _warn_of(columns, max_steps)
        if 2 * int(columns["preserved"].sum()) < len(columns["preserved"]):
            _warn_of_lambda(columns["preserved"], options, _height(ready, _images(inputs, rows)), place)
    return masks


@dataclass(frozen=True)
class _Inputs:
    """What the masks are fitted to, and the options that are not in `FitOptions`."""

    model: Artifact
    source: Artifact | Data
    ready: ReadyModel
    place: Place
    for_: str
    perturb: float
    seed: int
    limit: int | None


def _joined(
    journal: Journal,
    header: dict[str, Any],
    history: list[dict[str, Any]],
    known: dict[str, Tensor],
    shape: Sequence[int],
    execution: Execution,
) -> tuple[Artifact, dict[str, Tensor]]:
    """The artifact of the masks in the journals of all processes together, and its columns."""
    n, ranks = len(known["targets"]), execution.ranks
    fitted = ((row, journal.row(row)) for row in journal.rows())
    dtypes = _columns(header)
    if not ranks.leads:
        ranks.hand_over(fitted)
        return Artifact("masks", header, {}, history), {}
    with streaming.new_artifact(execution.output, "masks", header, history, _layout(n, shape, known, dtypes)) as masks:
        columns = _put(masks, ranks.gathered(fitted, execution.progress), n, dtypes)
        for name, values in {**known, **columns}.items():
            masks.put(name, values)
    ranks.written()
    return masks.artifact, columns


def _ready(model: Artifact, execution: Execution) -> ReadyModel:
    """The model, ready to run; if its logits depend on the batch, with at most `LARGEST_UNPADDED` images in one."""
    ready = ready_model(model, execution)
    most = levels.LARGEST_UNPADDED
    if ready.classifier.padded or ready.batch <= most:
        return ready
    if execution.batch_size is not None:
        warn(
            f"--batch-size {ready.batch}: masks of a network whose logits depend on the batch are fitted at most {most} at a "
            f"time: using {most}"
        )
    return replace(ready, batch=most)


def _fitted(
    source: Artifact | Data, model: Artifact, for_: str, ready: ReadyModel, allow_other_model: bool
) -> Artifact | Data:
    """The source, checked, and data as the model takes them."""
    if isinstance(source, Artifact):
        check_attack(source, model, ready.spec, allow_other_model, chooses=True)
        return source
    if for_ == "adversarial":
        raise MaskError("--for adversarial needs an attack file: data alone has no adversarial images")
    return fitted_data(source, ready.spec, model)


def _chosen(
    inputs: _Inputs, shard: Shard | None, journal: Journal, progress: Progress | None
) -> tuple[int, Tensor, dict[str, Tensor]]:
    """How many images get masks, and the rows of this shard with their targets and labels, as `_eligible` gives them."""
    rows, known = _eligible(inputs, journal, progress)
    if shard is None:
        return len(rows), rows, known
    part = list(shard.rows(len(rows)))
    return len(rows), rows[part], {name: values[part] for name, values in known.items()}


def _eligible(inputs: _Inputs, journal: Journal, progress: Progress | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The rows of the images that get masks, and their targets, labels, key, index and source."""
    source, ready = inputs.source, inputs.ready
    if isinstance(source, Data):
        targets = source.labels
        predictions = predict(ready.classifier, source.images, ready.batch, ready.device, journal, "clean", progress)
        right = predictions == targets
    elif inputs.for_ == "essential":  # regardless of the attack's success
        right, targets = source["status"] != WRONG_BEFORE, source["labels"]
    else:
        right, targets = source["status"] == OK, source["adversarial_predictions"]
    rows = right.nonzero().flatten()
    if not len(rows):
        raise MaskError(f"no image is left: {PURPOSES[inputs.for_]}")
    if len(rows) < len(right):
        warn(f"{len(right) - len(rows)} of {len(right)} images get no mask: {PURPOSES[inputs.for_]}")
    known = {"targets": targets, **rows_of(source)}
    rows = rows[spread(known["labels"][rows], inputs.limit)]
    return rows, {name: values[rows] for name, values in known.items()}


def _images(inputs: _Inputs, rows: Tensor) -> Rows:
    """The images that masks are fitted to, as float32; read and converted on demand."""
    if isinstance(inputs.source, Data):
        images = inputs.source.images
    else:
        images = inputs.source.rows("images" if inputs.for_ == "essential" else "adversarial")
    return RowView(images, rows, to_float, images.shape[1], torch.float32)


def _described(options: FitOptions, inputs: _Inputs) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the history of the masks."""
    model, source, ready = inputs.model, inputs.source, inputs.ready
    chosen = {
        "for": inputs.for_,
        "lambda": options.lambda_,
        "min_steps": options.min_steps,
        "max_steps": options.max_steps,
        "precision": options.precision,
        "perturb": inputs.perturb,
        **({"adapt_lambda": True} if options.adapt_lambda else {}),
    }
    header = {
        **chosen,
        "attack": None if isinstance(source, Data) else source.header["attack"],
        "image_size": list(inputs.place.shape[1:]),
        "basis": options.basis,
        "layer": inputs.place.layer,
        "objective": options.objective,
        **data_header(source, ready.spec),
    }
    recorded = {
        "--for": inputs.for_,
        "--lambda": options.lambda_,
        "--adapt-lambda": options.adapt_lambda or None,
        "--basis": options.basis,
        "--layer": None if inputs.place.layer == INPUT else inputs.place.layer,
        "--objective": options.objective,
        "--min-steps": options.min_steps,
        "--max-steps": options.max_steps,
        "--precision": options.precision,
        "--perturb": inputs.perturb or None,
        "--limit": inputs.limit,
        "--compile": options.compile_,
        **ready.recorded(),
    }
    seed = inputs.seed if inputs.perturb else None
    return header, stage("fit-masks", recorded, seed, inputs_of(model, source))


def _starts(
    rows: dict[str, Tensor], basis: Basis, channels: int, perturb: float, seed: int
) -> Callable[[int], Tensor] | None:
    """Where the mask of a row starts, drawn from (seed, key, index); None for ones."""
    if not perturb:
        return None
    keys, indices = rows["key"].tolist(), rows["index"].tolist()
    return lambda row: fitting.perturbed(basis, channels, perturb, row_seed(seed, keys[row], indices[row]))


def _store_in(journal: Journal, columns: dict[str, torch.dtype]) -> Callable[[int, Fit], None]:
    def store(row: int, fit: Fit) -> None:
        of_fit = {**vars(fit), "lambda": fit.lambda_}
        values = {name: torch.tensor(of_fit[name], dtype=dtype) for name, dtype in columns.items()}
        journal.finish_row(row, {"masks": fit.masks, **values})

    return store


def _put(
    masks: streaming.NewArtifact, rows: Iterable[tuple[int, bytes]], n: int, dtypes: dict[str, torch.dtype]
) -> dict[str, Tensor]:
    """Write the masks of these rows; return the other fields, each a column (n)."""
    columns = {name: torch.zeros(n, dtype=dtype) for name, dtype in dtypes.items()}
    for row, content in rows:
        values = unpack(content)
        masks.put("masks", values["masks"], row)
        for name, column in columns.items():
            column[row] = values[name]
    return columns


COLUMNS = {
    "steps": torch.int64,
    "loss": torch.float32,
    "converged": torch.bool,
    "preserved": torch.bool,
    "preserved_stored": torch.bool,
}


def _columns(header: dict[str, Any]) -> dict[str, torch.dtype]:
    """The fields of each fitted mask, besides the mask itself."""
    return {**COLUMNS, "lambda": torch.float32} if header.get("adapt_lambda") else COLUMNS


def _layout(n: int, shape: Sequence[int], known: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> streaming.Layout:
    return {
        "masks": (torch.float32, (n, *shape)),
        **{name: (dtype, (n,)) for name, dtype in dtypes.items()},
        **{name: (values.dtype, (n,)) for name, values in known.items()},
    }


def check_fit_options(lambda_: float | None, min_steps: int, max_steps: int) -> None:
    """MaskError for a lambda that is negative or so large that Adam's squares overflow, or an impossible range of steps."""
    if lambda_ is not None and not 0 <= lambda_ <= 1e15:
        raise MaskError(f"--lambda {lambda_}: expected a number of at least 0 and at most 1e15")
    if not 0 <= min_steps <= max_steps:
        raise MaskError(f"--min-steps {min_steps}, --max-steps {max_steps}: expected 0 <= min <= max")


def _check_options(for_: str, objective: str, lambda_: float | None, adapt_lambda: bool, perturb: float) -> None:
    if for_ not in PURPOSES:
        raise MaskError(unknown("--for", for_, PURPOSES))
    if objective not in OBJECTIVES:
        raise MaskError(unknown("--objective", objective, OBJECTIVES))
    if adapt_lambda and lambda_ == 0:
        raise MaskError("--adapt-lambda halves lambda: expected a --lambda above 0")
    if not 0 <= perturb < 1:
        raise MaskError(f"--perturb {perturb}: expected a number of at least 0 and below 1")
    if 0 < perturb <= LEAST_PERTURB:
        warn(f"--perturb {perturb:g} is too small: 1 - {perturb:g} is 1 in float32, and masks start at ones")


def _height(ready: ReadyModel, images: Rows) -> float:
    """How far the largest logit lies above the mean of all, the median over some of the images as they are."""
    some = range(0, min(len(images), HEIGHT_IMAGES), ready.batch)
    parts = [images[torch.arange(start, min(start + ready.batch, len(images)))] for start in some]
    with torch.no_grad():
        logits = torch.cat([ready.classifier(part.to(ready.device)).cpu() for part in parts])
    return float((logits.amax(dim=1) - logits.mean(dim=1)).median())


def _warn_of_lambda(preserved: Tensor, options: FitOptions, height: float, place: Place) -> None:
    """Say why few masks preserve their class, and what lambda to try.

    What an entry must earn to stay is lambda times it, and what it can earn is in proportion to the logits: see `PENALTY`.
    """
    kept, entries = int(preserved.sum()), math.prod(place.shape)
    begun = f"only {kept} of {len(preserved)} masks preserve their class: lambda {options.lambda_:g} may be too high"
    penalty, smaller = options.lambda_ * entries, PENALTY * height / entries
    measured = place.layer == INPUT and not objective(options.objective).of_share
    if not measured or not 0 < smaller < options.lambda_:
        warn(f"{begun}, see --lambda{'' if options.adapt_lambda else ' and --adapt-lambda'}")
        return
    otherwise = "" if options.adapt_lambda else ", or --adapt-lambda, which finds lambda for each image"
    warn(
        f"{begun}. The penalty of a mask of ones, {penalty:.4g}, is {penalty / height:.3g} times the height of the largest logit "
        f"above the mean logit (median {height:.3g}). For a ratio of {PENALTY:g}, try --lambda {smaller:.2g}{otherwise}"
    )


def _warn_of(columns: dict[str, Tensor], max_steps: int) -> None:
    lost = ~(columns["preserved_stored"] & columns["preserved"]) & ("lambda" in columns)
    left, limited = ~columns["converged"], columns["steps"] > max_steps
    for those, what in (
        (lost, f"masks lose their class even after lambda was halved {HALVINGS} times; kept and flagged"),
        (left & limited, "masks reached the step limit before converging"),
        (left & ~limited, "fits ended early, where the loss or its gradient is not finite"),
    ):
        if bool(those.any()):
            warn(f"{int(those.sum())} of {len(those)} {what}")
