"""Correlate two sets of masks, each statistic beside its permutation nulls (paper, sections 3.2 and 4.5)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage
from fmtool.artifacts.matrices import MATRIX, digest_of, given_matrix
from fmtool.artifacts.rows import ROWS_OF_FILE, check_no_shard, check_range, check_unit, join
from fmtool.correlation import engine
from fmtool.correlation.engine import chosen
from fmtool.correlation.evaluate import Point, Statistic, alone_in_class
from fmtool.correlation.nulls import Null
from fmtool.errors import ArtifactError, MaskError, StatisticError, warn
from fmtool.masks.basis import KEPT, check_shape
from fmtool.masks.registry import FOURIER, LABEL, layer_of
from fmtool.models.classifier import pick_device
from fmtool.models.foreign_code import own_settings
from fmtool.models.registry import INPUT
from fmtool.stages.device_faults import device_errors, resuming
from fmtool.stages.options import (
    DEFAULT_EXECUTION,
    DIMENSION,
    PERMUTATIONS,
    PRESETS,
    STATISTICS_BY_DEFAULT,
    SUBSET_DRAWS,
    Execution,
)

# options of masks that a correlation records of a side where they are not these
_USUAL = {"layer": INPUT, "basis": FOURIER, "objective": LABEL, "adapt_lambda": False}


# Over 60 lines, a third of them signature and docstring.
@own_settings()
@device_errors("--pool, or fewer pairs")
def correlate(
    a: Artifact | Tensor,
    b: Artifact | Tensor,
    *,
    labels: Tensor | None = None,
    statistics: Sequence[str] = STATISTICS_BY_DEFAULT,
    permutations: int | None = None,
    preset: str | None = None,
    row_normalise: bool = True,
    dimension: str = DIMENSION,
    pool: int | None = None,
    trim: Sequence[float] = (),
    class_subsets: bool = False,
    subsample: Sequence[int] = (),
    draws: int = SUBSET_DRAWS,
    seed: int = 0,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """Correlate two `masks` artifacts, joined by image, both masks preserved; or two matrices (n, d), joined by row, with labels
    (n) or without, as tensors or NumPy arrays.

    Masks are flattened over the full spectrum. trim: first set entries at or below the first of these thresholds to 0; several
    thresholds give a curve. pool: then average-pool masks by this odd number. permutations: None for the
    preset's, else 999. preset "paper": the authors' 100 permutations and strict inequality. class_subsets, subsample and draws:
    curves in the header, see `correlation.curves`. Gives a `correlation` artifact. ArtifactError, MaskError or StatisticError if
    nothing is shared or n is too small.
    """
    execution.refuse("correlate", "batch_size", "factory", "allow_other_model", "shard", "ranks")
    names = _names(statistics, row_normalise, dimension)
    if draws != SUBSET_DRAWS and not (class_subsets or subsample):
        raise StatisticError(
            "--draws applies to --class-subsets and --subsample: add one of them, or leave the option out"
        )
    thresholds = _thresholds(trim)
    a, b = (side if isinstance(side, Artifact) else given_matrix(side, "a matrix") for side in (a, b))
    rows = _rows(a, b, None if labels is None else given_matrix(labels, "labels"), pool, thresholds)
    device = pick_device(execution.device)
    arguments: dict[str, Any] = {
        **_null_options(permutations, preset),
        "row_normalise": row_normalise,
        "dimension": dimension,
        "class_subsets": class_subsets,
        "draws": draws,
    }
    options = {
        "--statistics": names,
        "--permutations": arguments["permutations"],
        "--preset": preset,
        "--row-normalise": row_normalise and None,
        "--dimension": dimension,
        "--pool": pool,
        "--trim": thresholds or None,
        "--class-subsets": class_subsets or None,
        "--subsample": list(subsample) or None,
        "--draws": draws,
        "--device": device.type,
    }
    history = stage("correlate", options, seed, [_input(side) for side in (a, b)])
    work = {"history": history, "sides": rows.sides, "labels": None if rows.labels is None else digest_of(rows.labels)}
    left_out: dict[str, str] = {}

    def leave_out(name: str, reason: str) -> None:
        left_out[name] = reason
        warn(f"{name} is left out: {reason}")  # CSV has no notes

    with resuming(execution, work) as journal:
        results = engine.correlate(
            rows.x,
            rows.y,
            labels=rows.labels,
            statistics=names,
            subsamples=subsample,
            thresholds=thresholds,
            trimmed=rows.trimmed,
            seed=seed,
            device=str(device),
            **arguments,
            leave_out=leave_out,
            progress=execution.progress,
            journal=journal,
        )
        header = _header(results, rows, left_out, arguments, pool, thresholds)
        return execution.write(Artifact("correlation", header, _tensors(results), history))


def _names(statistics: Sequence[str], row_normalise: bool, dimension: str) -> list[str]:
    """The requested statistics, each once. StatisticError for an option of IdCor without it."""
    names = chosen([name.strip() for name in statistics.split(",")] if isinstance(statistics, str) else statistics)
    for option, given in (("--no-row-normalise", not row_normalise), ("--dimension", dimension != DIMENSION)):
        if given and "idcor" not in names:
            raise StatisticError(f"{option} applies to idcor only: add idcor to --statistics, or leave the option out")
    return names


def _null_options(permutations: int | None, preset: str | None) -> dict[str, Any]:
    """The engine's `permutations` and `strict`: those of the preset where the option isn't given."""
    if preset is not None and preset not in PRESETS:
        raise StatisticError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    of_preset = PRESETS.get(preset or "", {})
    return {
        "permutations": int(of_preset.get("permutations", PERMUTATIONS)) if permutations is None else permutations,
        "strict": bool(of_preset.get("strict", False)),
    }


@dataclass(frozen=True)
class _Rows:
    """The data to correlate: x (n, d1) and y (n, d2), labels (n), and their description for the file.

    trimmed: gives x and y with entries up to a threshold set to 0; None for matrices. dropped: reason -> number of rows left
    out. sides: a record of each side.
    """

    x: Tensor
    y: Tensor
    labels: Tensor | None
    trimmed: Callable[[float], tuple[Tensor, Tensor]] | None
    dropped: dict[str, int]
    sides: list[dict[str, Any]]


def _rows(
    a: Artifact | Tensor, b: Artifact | Tensor, labels: Tensor | None, pool: int | None, thresholds: Sequence[float]
) -> _Rows:
    sides = [_side(side) for side in (a, b)]
    if isinstance(a, Artifact) and isinstance(b, Artifact):
        if labels is not None:
            raise StatisticError("labels: mask files have their own; pass labels only with matrices")
        places, labels, dropped = _mask_pairs(a, b)
        basis, channels = check_shape(a.rows("masks"), a.header, a), a.rows("masks").shape[1]
        engine.warn_of_memory(2 * len(places[0]) * channels * basis.h * basis.w // (pool or 1) ** 2)
        trimmed = functools.partial(_flat, (a, b), places, pool)
        x, y = trimmed(thresholds[0] if thresholds else 0.0)
        if pool is None:  # a mean over several entries may be small
            sides = [{**side, "residue": _residue(rows)} for side, rows in zip(sides, (x, y), strict=True)]
        return _Rows(x, y, labels, trimmed, dropped, sides)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise ArtifactError("expected two mask files or two files with a matrix each, got one of each")
    for option, given in (("--pool", pool is not None), ("--trim", bool(thresholds))):
        if given:
            raise StatisticError(f"{option} applies to mask files only")
    engine.warn_of_memory(a.numel() + b.numel())
    return _Rows(a, b, labels, None, {}, sides)


def _header(
    results: Sequence[Statistic],
    rows: _Rows,
    left_out: dict[str, str],
    arguments: dict[str, Any],
    pool: int | None,
    thresholds: Sequence[float],
) -> dict[str, Any]:
    return {
        "statistics": [_record(one) for one in results],
        "n": len(rows.x),
        **{name: arguments[name] for name in ("permutations", "strict", "dimension")},
        "pool": pool,
        **({} if arguments["row_normalise"] else {"row_normalise": False}),
        **({} if rows.labels is None else {"alone_in_class": alone_in_class(rows.labels)}),
        "trim": thresholds[0] if thresholds else None,
        "dropped": rows.dropped,
        **({"left_out": left_out} if left_out else {}),
        "sides": rows.sides,
        **_curves(results),
    }


def _thresholds(trim: Sequence[float] | float) -> list[float]:
    """The thresholds without duplicates, in the order given."""
    trim = [trim] if isinstance(trim, int | float) else trim
    for threshold in trim:
        if not 0 <= threshold < 1:
            raise StatisticError(f"--trim: expected thresholds from 0 to below 1, got {threshold:g}")
    return list(dict.fromkeys(map(float, trim)))


def _tensors(results: Sequence[Statistic]) -> dict[str, Tensor]:
    """Null distributions over all rows, and samples; curves are numbers in the header."""
    tensors = {}
    for one in results:
        tensors[f"{one.name}_null"] = one.null.values
        if one.within_class is not None:
            tensors[f"{one.name}_null_within_class"] = one.within_class.values
        tensors.update({f"{one.name}_{what}": sample for what, sample in one.samples.items()})
    return tensors


def _curves(results: Sequence[Statistic]) -> dict[str, Any]:
    """The header's `curves`, one entry per statistic and size; empty if none were requested."""
    curves = {
        "class_subsets": [entry for one in results for entry in _curve(one.name, one.class_subsets)],
        "equal_pairs": [entry for one in results for entry in _curve(one.name, one.equal_pairs)],
        "subsample": [entry for one in results for entry in _curve(one.name, one.subsamples)],
    }
    curves["trim"] = [_trimmed(one.name, point) for one in results for point in one.trims]
    asked = {name: entries for name, entries in curves.items() if entries}
    return {"curves": asked} if asked else {}


def _curve(name: str, points: Sequence[Point]) -> list[dict[str, Any]]:
    sizes = dict.fromkeys(point.size for point in points)
    return [
        {"statistic": name, "size": size, "points": [_point(point) for point in points if point.size == size]}
        for size in sizes
    ]


def _trimmed(name: str, point: Point) -> dict[str, Any]:
    assert point.columns is not None
    return {"statistic": name, "threshold": point.size, "columns": list(point.columns), **_point(point)}


def _point(point: Point) -> dict[str, Any]:
    record: dict[str, Any] = {"classes": list(point.classes)} if point.classes else {}
    record["n"] = point.n
    if point.statistic is None:
        return {**record, "reason": point.reason}
    if point.statistic.dropped:
        record["dropped"] = point.statistic.dropped
    if point.alone:
        record["alone_in_class"] = point.alone
    return {**record, **_values(point.statistic)}


def _mask_pairs(a: Artifact, b: Artifact) -> tuple[list[Tensor], Tensor, dict[str, int]]:
    """Row numbers (n) of the pairs in each file, their labels (n), and reason -> number of rows left out."""
    for file in (a, b):
        check_no_shard(file)
        check_unit(file.rows("masks"), str(file))
    names = [check_shape(file.rows("masks"), file.header, file).name for file in (a, b)]
    if names[0] != names[1]:
        raise ArtifactError(
            f"{a} and {b}: masks in different bases, {names[0]} and {names[1]}, have no entries in common"
        )
    _check_layers(a, b)
    if a.input_digest("model") != b.input_digest("model"):
        warn(f"{a} and {b} are masks of two models")
    place_a, place_b = join([a, b])
    preserved = a["preserved"][place_a] & b["preserved"][place_b]
    dropped = {
        "only in A": len(a["labels"]) - len(place_a),
        "only in B": len(b["labels"]) - len(place_b),
        "not preserved on both sides": int((~preserved).sum()),
    }
    place_a, place_b = place_a[preserved], place_b[preserved]
    if not len(place_a):
        raise MaskError(f"{a} and {b}: no image keeps its class under both masks")
    if not torch.equal(a["labels"][place_a], b["labels"][place_b]):
        raise ArtifactError(f"{a} and {b} label the same images differently")
    labels = a["labels"][place_a]
    check_range(labels, torch.iinfo(torch.int32).max, f"{a}: labels")
    return [place_a, place_b], labels, {k: v for k, v in dropped.items() if v}


def _check_layers(a: Artifact, b: Artifact) -> None:
    """Warn of masks of two layers, or refuse them if the layers' shapes differ: their entries mean nothing to each other."""
    layers, shapes = zip(*((layer_of(file.header), list(file.rows("masks").shape[1:])) for file in (a, b)), strict=True)
    if layers[0] == layers[1]:
        return
    if shapes[0] != shapes[1]:
        raise ArtifactError(
            f"{a} and {b}: masks of two layers, {layers[0]} and {layers[1]}, have different shapes, {shapes[0]} and {shapes[1]}"
        )
    warn(f"{a} and {b} are masks of two layers, {layers[0]} and {layers[1]}")


def _flat(
    files: Sequence[Artifact], places: Sequence[Tensor], pool: int | None, threshold: float
) -> tuple[Tensor, Tensor]:
    """Full masks (n, d) of both files, without entries up to the threshold, pooled: a few at a time (at 224x224 ten
    thousand whole masks take 6 GB).
    """

    def flat(file: Artifact, rows: Tensor) -> Tensor:
        masks = file.rows("masks")
        basis = check_shape(masks, file.header, file)

        def some(start: int) -> Tensor:
            full = basis.to_full(masks[rows[start : start + ROWS_OF_FILE]])
            full = full.where(full > threshold, 0)
            return (full if pool is None else basis.pool(full, pool)).flatten(1)

        return torch.cat([some(start) for start in range(0, len(rows), ROWS_OF_FILE)])

    x, y = (flat(file, rows) for file, rows in zip(files, places, strict=True))
    return x, y


def _residue(rows: Tensor) -> dict[str, int]:
    """How many of the non-zero entries of rows (n, d) are at most `KEPT`, and how many columns hold such entries alone."""
    small = (rows > 0) & (rows <= KEPT)
    large = rows > KEPT
    return {
        "non_zero": int(small.sum() + large.sum()),
        "small": int(small.sum()),
        "columns": rows.shape[1],
        "small_columns": int((small.any(dim=0) & ~large.any(dim=0)).sum()),
    }


def _record(one: Statistic) -> dict[str, Any]:
    return {
        "name": one.name,
        "n": one.n,
        "dropped": one.dropped,
        "details": {name: _plain(value) for name, value in one.details.items()},
        **_values(one),
    }


def _values(one: Statistic) -> dict[str, Any]:
    return {
        "observed": _plain(one.observed),
        "null": _null_record(one.null),
        "within_class": one.within_class and _null_record(one.within_class),
    }


def _null_record(null: Null) -> dict[str, Any]:
    numbers = {name: _plain(getattr(null, name)) for name in ("mean", "low", "high", "p", "floor", "adjusted")}
    return {**numbers, "reason": null.reason}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _side(side: Artifact | Tensor) -> dict[str, Any]:
    if isinstance(side, Tensor):
        return {"for": None, "attack": None, "shape": list(side.shape)}
    if side.kind != "masks":
        raise ArtifactError(f"{side}: expected masks, got {side.kind}")
    return {
        "for": side.header["for"],
        "attack": side.header["attack"],
        "lambda": side.header["lambda"],
        "model": side.input_digest("model"),
        "perturb": side.header.get("perturb", 0.0),  # how far from ones the masks' fit started
        **{name: side.header[name] for name, usual in _USUAL.items() if side.header.get(name, usual) != usual},
        "shape": list(side.rows("masks").shape),
    }


def _input(side: Artifact | Tensor) -> Artifact | dict[str, str]:
    if isinstance(side, Artifact):
        return side
    return {"name": MATRIX, "split": "", "digest": digest_of(side)}
