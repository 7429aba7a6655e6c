"""Fit one frequency mask an image (paper, sections 3.1 and 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fmtool import artifacts, mask_fitting, row_files
from fmtool.artifacts import Artifact, Rows
from fmtool.attacks import OK, WRONG_BEFORE, row_seed
from fmtool.datasets import Data, spread, to_float
from fmtool.errors import MaskError, unknown
from fmtool.mask_fitting import Fit
from fmtool.mask_steps import MAX_STEPS, MIN_STEPS, FitOptions, default_lambda
from fmtool.models import compiling
from fmtool.models.classifier import predict
from fmtool.spectrum import half_width
from fmtool.stages.common import Progress, Ready, check_attack, check_data, data_header, inputs_of, ready, rows_of, warn

PURPOSES = {
    "essential": "clean images that are classified correctly, to keep their label (M_E)",
    "adversarial": "adversarial images, to keep the class that the attack turned them to (M_A)",
}
LEAST_PERTURB = 2**-25  # 1 - 2^-25 and what lies nearer to 1 round to it in float32


def fit_masks(
    model: Artifact,
    source: Artifact | Data,
    for_: str = "essential",
    *,
    lambda_: float | None = None,
    min_steps: int = MIN_STEPS,
    max_steps: int = MAX_STEPS,
    limit: int | None = None,
    precision: str = "float32",
    perturb: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    batch: int | None = None,
    compile_: bool | None = None,
    factory: str | None = None,
    allow_other_model: bool = False,
    output: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Masks for an `attack` artifact's images, or essential masks for data; gives a `masks` artifact of the eligible images.

    for_: "essential": images right when clean, target the label; "adversarial": images with status 0, target the class that
    the attack turned them to. lambda_: None for min(0.5, 1536 / (c h w)). precision: see `compiling.PRECISIONS`. perturb: start
    at 1 - perturb * u, u in [0, 1] drawn from `seed` for each image, instead of at ones. compile_: compile the network; None
    where there is enough work for that to pay. output: write the file ("-" for standard output) as masks are finished; what is
    returned then reads from it, and memory does not grow with n. MaskError when no image is eligible.
    """
    if for_ not in PURPOSES:
        raise MaskError(unknown("--for", for_, PURPOSES))
    check_fit_options(lambda_, min_steps, max_steps)
    _check_perturb(perturb)
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
    images, targets = _Pixels(everything.pop("pixels"), rows), everything.pop("targets")[rows]
    used = default_lambda(run.spec.input_shape) if lambda_ is None else lambda_
    if compile_ is None:
        compile_ = compiling.pays(len(rows) * min_steps, run.spec.input_shape)
    options = FitOptions(used, run.batch, min_steps, max_steps, compile_=compile_, precision=precision)
    header, history = _described(for_, options, perturb, seed, limit, model, source, run)
    known = {"targets": targets, **{name: values[rows] for name, values in everything.items()}}
    with row_files.making(output, "masks", header, history, _layout(len(rows), run.spec.input_shape, known)) as made:
        found = _Fitted(made, len(rows))
        starts = _starts(known, run.spec.input_shape, perturb, seed)
        mask_fitting.fit_each(run.classifier, images, targets, options, found.store, run.device, progress, starts)
        for name, values in {**known, **found.columns}.items():
            made.put(name, values)
    _warn_of(found.columns, used)
    return made.artifact


def _described(
    for_: str,
    options: FitOptions,
    perturb: float,
    seed: int,
    limit: int | None,
    model: Artifact,
    source: Artifact | Data,
    run: Ready,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the history of the masks."""
    chosen = {
        "for": for_,
        "lambda": options.lambda_,
        "min_steps": options.min_steps,
        "max_steps": options.max_steps,
        "precision": options.precision,
        "perturb": perturb,
    }
    header = {
        **chosen,
        "attack": None if isinstance(source, Data) else source.header["attack"],
        "image_size": list(run.spec.input_shape[1:]),
        "basis": "fourier",
        "layer": "input",
        **data_header(source, run.spec),
    }
    recorded = {
        **chosen,
        "limit": limit,
        "batch_size": options.batch,
        "compile": options.compile_,
        "device": run.device.type,
    }
    return header, artifacts.stage("fit-masks", recorded, seed if perturb else None, inputs_of(model, source))


def _starts(rows: dict[str, Tensor], shape: Sequence[int], perturb: float, seed: int) -> Callable[[int], Tensor] | None:
    """Where the mask of a row starts, drawn from (seed, key, index); None for ones."""
    if not perturb:
        return None
    keys, indices = rows["key"].tolist(), rows["index"].tolist()
    return lambda row: mask_fitting.perturbed(shape, perturb, row_seed(seed, keys[row], indices[row]))


class _Pixels:
    """Some rows of images (n, c, h, w), uint8 or float in [0, 1], as float32; read and converted when they are asked for."""

    dtype = torch.float32

    def __init__(self, images: Rows, rows: Tensor) -> None:
        self.images, self.rows, self.shape = images, rows, (len(rows), *images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Tensor:
        return to_float(self.images[self.rows[row]])


class _Fitted:
    """Takes masks to where they are kept, and what else there is of each, one column a field (n), in memory."""

    def __init__(self, made: row_files.Made, n: int) -> None:
        self.made = made
        self.columns = {name: torch.zeros(n, dtype=dtype) for name, dtype in COLUMNS.items()}

    def store(self, row: int, fit: Fit) -> None:
        self.made.put("masks", fit.masks, row)
        for name, values in self.columns.items():
            values[row] = getattr(fit, name)


COLUMNS = {
    "steps": torch.int64,
    "loss": torch.float32,
    "converged": torch.bool,
    "preserved": torch.bool,
    "preserved_stored": torch.bool,
}


def _layout(n: int, shape: Sequence[int], known: dict[str, Tensor]) -> row_files.Layout:
    c, h, w = shape
    return {
        "masks": (torch.float32, (n, c, h, half_width(w))),
        **{name: (dtype, (n,)) for name, dtype in COLUMNS.items()},
        **{name: (values.dtype, (n,)) for name, values in known.items()},
    }


def check_fit_options(lambda_: float | None, min_steps: int, max_steps: int) -> None:
    """MaskError for a negative lambda or steps that can't be."""
    if lambda_ is not None and not 0 <= lambda_ < float("inf"):
        raise MaskError(f"--lambda {lambda_}: expected a number of at least 0")
    if not 0 <= min_steps <= max_steps:
        raise MaskError(f"--min-steps {min_steps}, --max-steps {max_steps}: expected 0 <= min <= max")


def _check_perturb(perturb: float) -> None:
    if not 0 <= perturb < 1:
        raise MaskError(f"--perturb {perturb}: expected a number of at least 0 and below 1")
    if 0 < perturb <= LEAST_PERTURB:
        warn(f"--perturb {perturb:g} is too small: 1 - {perturb:g} is 1 in float32, and masks start at ones")


def _from_data(data: Data, run: Ready) -> dict[str, Any]:
    right = predict(run.classifier, data.images, run.batch, run.device) == data.labels
    return {"eligible": right, "pixels": data.images, "targets": data.labels, **rows_of(data)}


def _from_attack(attack: Artifact, for_: str) -> dict[str, Any]:
    if for_ == "essential":  # whatever became of the attack
        chosen = (attack["status"] != WRONG_BEFORE, attack.rows("images"), attack["labels"])
    else:
        chosen = (attack["status"] == OK, attack.rows("adversarial"), attack["adversarial_predictions"])
    return {"eligible": chosen[0], "pixels": chosen[1], "targets": chosen[2], **rows_of(attack)}


def _warn_of(found: dict[str, Tensor], used: float) -> None:
    kept, n = int(found["preserved"].sum()), len(found["preserved"])
    if kept * 2 < n:
        warn(f"only {kept} of {n} masks preserve their class: lambda {used:g} may be too high, see --lambda")
    unsettled = int((~found["converged"]).sum())
    if unsettled:
        warn(f"{unsettled} of {n} masks met the limit of steps before the stopping test")
    if bool(torch.isnan(found["loss"]).any()):
        warn("some masks have a loss that is not a number: check the model on these images")
