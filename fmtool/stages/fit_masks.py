"""Fit one frequency mask an image (paper, sections 3.1 and 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts import streaming
from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.history import stage
from fmtool.attacks.registry import OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.datasets.rows import row_seed, spread, to_float
from fmtool.errors import MaskError, unknown, warn
from fmtool.masks import fitting
from fmtool.masks.basis import FOURIER, basis_for
from fmtool.masks.fit_queue import Fit
from fmtool.masks.optimisation import MAX_STEPS, MIN_STEPS, FitOptions, default_lambda
from fmtool.models import compiling
from fmtool.models.classifier import predict
from fmtool.runtime import resume_file
from fmtool.runtime.distributed import ALONE, Ranks, Shard
from fmtool.runtime.journal import Journal, unpack
from fmtool.runtime.progress import Progress
from fmtool.stages.device_faults import halving, note_batch
from fmtool.stages.inputs import check_attack, check_data, data_header, inputs_of, rows_of
from fmtool.stages.prepare import Ready, code_of, ready

PURPOSES = {
    "essential": "clean images that are classified correctly, to keep their label (M_E)",
    "adversarial": "adversarial images, to keep the class that the attack turned them to (M_A)",
}
LEAST_PERTURB = 2**-25  # 1 - 2^-25 and what lies nearer to 1 round to it in float32


@halving
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
    shard: Shard | None = None,
    restart: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Artifact:
    """Masks for an `attack` artifact's images, or essential masks for data; gives a `masks` artifact of the eligible images.

    for_: "essential": images right when clean, target the label; "adversarial": images with status 0, target the class that
    the attack turned them to. lambda_: None for min(0.5, 1536 / (c h w)). precision: see `compiling.PRECISIONS`. perturb: start
    at 1 - perturb * u, u in [0, 1] drawn from `seed` for each image, instead of at ones. compile_: compile the network; None
    where there is enough work for that to pay. output: write the file ("-" for standard output); what is returned then reads
    from it, and memory does not grow with n. An interrupted run goes on from a file beside `output`, unless `restart`. shard:
    the part of the masks to fit. ranks: the processes that share them; what is returned on the others than the first has no
    rows. MaskError when no image is eligible.
    """
    if for_ not in PURPOSES:
        raise MaskError(unknown("--for", for_, PURPOSES))
    check_fit_options(lambda_, min_steps, max_steps)
    _check_perturb(perturb)
    run = ready(model, ranks.device(device), batch, factory)
    _check_source(source, model, for_, run, allow_other_model)
    used = default_lambda(run.spec.input_shape) if lambda_ is None else lambda_
    options = FitOptions(used, run.batch, min_steps, max_steps, compile_=bool(compile_), precision=precision)
    described = (for_, perturb, seed, limit, model, source, run)
    asked = {"compile": compile_, "shard": shard and [shard.number, shard.of], **code_of(run.classifier, run.spec)}
    work, whose = {"described": _described(options, *described), **asked}, (ranks.rank, ranks.of)
    with resume_file.resuming(output, work, restart=restart, rank=whose, holds_rows=True) as journal:
        note_batch(journal)
        of, rows, known = _chosen(source, for_, run, limit, shard, journal)
        if compile_ is None:
            options = replace(options, compile_=compiling.pays(of * min_steps, run.spec.input_shape))
        header, history = _described(options, *described)
        if shard is not None:
            header["shard"] = shard.field(of)
        starts = _starts(known, run.spec.input_shape, perturb, seed)
        pixels = _Pixels(_pixels(source, for_), rows)
        fitting.fit_each(
            *(run.classifier, pixels, known["targets"], options, _store_in(journal), run.device, progress, starts),
            rows=ranks.rows(range(len(rows))),
            journal=journal,
        )
        made, columns = _made(journal, header, history, known, run.spec.input_shape, output, ranks, progress)
    if ranks.leads:
        _warn_of(columns, used)
    return made


def _made(
    journal: Journal,
    header: dict[str, Any],
    history: list[dict[str, Any]],
    known: dict[str, Tensor],
    shape: Sequence[int],
    output: str | None,
    ranks: Ranks,
    progress: Progress | None,
) -> tuple[Artifact, dict[str, Tensor]]:
    """The artifact of the masks in the journals of all processes together, and their columns."""
    n = len(known["targets"])
    fitted = ((row, journal.row(row)) for row in journal.rows())
    if not ranks.leads:
        ranks.hand_over(fitted)
        return Artifact("masks", header, {}, history), {}
    with streaming.making(output, "masks", header, history, _layout(n, shape, known)) as made:
        columns = _put(made, ranks.gathered(fitted, progress), n)
        for name, values in {**known, **columns}.items():
            made.put(name, values)
    ranks.written()
    return made.artifact, columns


def _check_source(source: Artifact | Data, model: Artifact, for_: str, run: Ready, allow_other_model: bool) -> None:
    if isinstance(source, Artifact):
        check_attack(source, model, run.spec, allow_other_model)
    elif for_ == "adversarial":
        raise MaskError("--for adversarial needs an attack file: data alone has no adversarial images")
    else:
        check_data(source, run.spec)


def _chosen(
    source: Artifact | Data, for_: str, run: Ready, limit: int | None, shard: Shard | None, journal: Journal
) -> tuple[int, Tensor, dict[str, Tensor]]:
    """How many images are to have masks, which rows of them this shard takes, and what is known of those, as in `_eligible`."""
    rows, known = _eligible(source, for_, run, limit, journal)
    if shard is None:
        return len(rows), rows, known
    part = list(shard.rows(len(rows)))
    return len(rows), rows[part], {name: values[part] for name, values in known.items()}


def _eligible(
    source: Artifact | Data, for_: str, run: Ready, limit: int | None, journal: Journal
) -> tuple[Tensor, dict[str, Tensor]]:
    """Which rows of the images are to have masks, and what is known of those: targets, labels, key, index and source."""
    if isinstance(source, Data):
        right = predict(run.classifier, source.images, run.batch, run.device, journal, "clean") == source.labels
        targets = source.labels
    elif for_ == "essential":  # whatever became of the attack
        right, targets = source["status"] != WRONG_BEFORE, source["labels"]
    else:
        right, targets = source["status"] == OK, source["adversarial_predictions"]
    rows = right.nonzero().flatten()
    if not len(rows):
        raise MaskError(f"no image is left for {for_} masks: expected {PURPOSES[for_]}")
    known = {"targets": targets, **rows_of(source)}
    rows = rows[spread(known["labels"][rows], limit)]
    return rows, {name: values[rows] for name, values in known.items()}


def _pixels(source: Artifact | Data, for_: str) -> Rows:
    """The images that masks are fitted to, of all rows."""
    if isinstance(source, Data):
        return source.images
    return source.rows("images" if for_ == "essential" else "adversarial")


def _described(
    options: FitOptions,
    for_: str,
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
        "basis": options.basis,
        "layer": "input",
        **data_header(source, run.spec),
    }
    recorded = {
        "--for": for_,
        "--lambda": options.lambda_,
        "--min-steps": options.min_steps,
        "--max-steps": options.max_steps,
        "--precision": options.precision,
        "--perturb": perturb or None,
        "--limit": limit,
        "--compile": options.compile_,
        **run.recorded(),
    }
    return header, stage("fit-masks", recorded, seed if perturb else None, inputs_of(model, source))


def _starts(rows: dict[str, Tensor], shape: Sequence[int], perturb: float, seed: int) -> Callable[[int], Tensor] | None:
    """Where the mask of a row starts, drawn from (seed, key, index); None for ones."""
    if not perturb:
        return None
    keys, indices = rows["key"].tolist(), rows["index"].tolist()
    basis = basis_for(FOURIER, *shape[1:])
    return lambda row: fitting.perturbed(basis, shape[0], perturb, row_seed(seed, keys[row], indices[row]))


class _Pixels:
    """Some rows of images (n, c, h, w), uint8 or float in [0, 1], as float32; read and converted when they are asked for."""

    dtype = torch.float32

    def __init__(self, images: Rows, rows: Tensor) -> None:
        self.images, self.rows, self.shape = images, rows, (len(rows), *images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Tensor:
        return to_float(self.images[self.rows[row]])


def _store_in(journal: Journal) -> Callable[[int, Fit], None]:
    def store(row: int, fit: Fit) -> None:
        values = {name: torch.tensor(getattr(fit, name), dtype=dtype) for name, dtype in COLUMNS.items()}
        journal.finish_row(row, {"masks": fit.masks, **values})

    return store


def _put(made: streaming.Made, found: Iterable[tuple[int, bytes]], n: int) -> dict[str, Tensor]:
    """Take masks to where they are kept; gives what else there is of each, one column a field (n)."""
    columns = {name: torch.zeros(n, dtype=dtype) for name, dtype in COLUMNS.items()}
    for row, data in found:
        values = unpack(data)
        made.put("masks", values["masks"], row)
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


def _layout(n: int, shape: Sequence[int], known: dict[str, Tensor]) -> streaming.Layout:
    c, h, w = shape
    return {
        "masks": (torch.float32, (n, c, *basis_for(FOURIER, h, w).shape)),
        **{name: (dtype, (n,)) for name, dtype in COLUMNS.items()},
        **{name: (values.dtype, (n,)) for name, values in known.items()},
    }


def check_fit_options(lambda_: float | None, min_steps: int, max_steps: int) -> None:
    """MaskError for a lambda that is negative or that float32 can't hold, or steps that can't be."""
    if lambda_ is not None and not 0 <= lambda_ <= torch.finfo(torch.float32).max:
        raise MaskError(f"--lambda {lambda_}: expected a number of at least 0 and at most 3e38")
    if not 0 <= min_steps <= max_steps:
        raise MaskError(f"--min-steps {min_steps}, --max-steps {max_steps}: expected 0 <= min <= max")


def _check_perturb(perturb: float) -> None:
    if not 0 <= perturb < 1:
        raise MaskError(f"--perturb {perturb}: expected a number of at least 0 and below 1")
    if 0 < perturb <= LEAST_PERTURB:
        warn(f"--perturb {perturb:g} is too small: 1 - {perturb:g} is 1 in float32, and masks start at ones")


def _warn_of(found: dict[str, Tensor], used: float) -> None:
    kept, n = int(found["preserved"].sum()), len(found["preserved"])
    if kept * 2 < n:
        warn(f"only {kept} of {n} masks preserve their class: lambda {used:g} may be too high, see --lambda")
    unsettled = int((~found["converged"]).sum())
    if unsettled:
        warn(f"{unsettled} of {n} masks met the limit of steps before the stopping test")
    if bool(torch.isnan(found["loss"]).any()):
        warn("some masks have a loss that is not a number: check the model on these images")
