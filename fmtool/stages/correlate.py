"""Correlate two sets of masks, each statistic beside its permutation nulls (paper, sections 3.2 and 4.5)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fmtool import artifacts, spectrum
from fmtool.artifacts import Artifact
from fmtool.correlation import STATISTICS, Null, Statistic
from fmtool.correlation import correlate as correlate_rows
from fmtool.errors import ArtifactError, MaskError, StatisticError
from fmtool.models.classifier import pick_device
from fmtool.stages.common import Progress, check_range, check_unit, join

PERMUTATIONS = 999
PRESETS = {"paper": {"permutations": 100, "strict": True}}  # the authors' code: p from shuffled d strictly below d


def correlate(
    a: Artifact | Tensor,
    b: Artifact | Tensor,
    *,
    labels: Tensor | None = None,
    statistics: Sequence[str] = tuple(STATISTICS),
    permutations: int | None = None,
    preset: str | None = None,
    row_normalise: bool = True,
    pool: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Artifact:
    """Correlate two `masks` artifacts, joined by image, both masks preserved; or two matrices (n, d), joined by row.

    Masks are flattened over the full spectrum; pool: average-pool them first by this odd number. preset "paper": the authors'
    100 permutations and strict inequality. Gives a `correlation` artifact. Errors where nothing is shared or n is too small.
    """
    if preset is not None and preset not in PRESETS:
        raise StatisticError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    chosen = PRESETS.get(preset or "", {})
    count = permutations if permutations is not None else int(chosen.get("permutations", PERMUTATIONS))
    strict = bool(chosen.get("strict", False))
    dropped: dict[str, int] = {}
    if isinstance(a, Artifact) and isinstance(b, Artifact):
        x, y, labels, dropped = _mask_pairs(a, b, pool)
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if pool is not None:
            raise StatisticError("--pool goes with mask files")
        x, y = a, b
    else:
        raise ArtifactError("expected two mask files or two files with a matrix each, got one of either")
    found = correlate_rows(
        x,
        y,
        labels=labels,
        statistics=statistics,
        permutations=count,
        seed=seed,
        row_normalise=row_normalise,
        strict=strict,
        device=str(pick_device(device)),
        progress=progress,
    )
    header = {
        "statistics": [_record(one) for one in found],
        "n": len(x),
        "permutations": count,
        "strict": strict,
        "dropped": dropped,
        "sides": [_side(a), _side(b)],
    }
    tensors = {}
    for one in found:
        tensors[f"{one.name}_null"] = one.null.values
        if one.within_class is not None:
            tensors[f"{one.name}_null_within_class"] = one.within_class.values
    options = {
        "statistics": list(statistics),
        "permutations": count,
        "strict": strict,
        "row_normalise": row_normalise,
        "pool": pool,
    }
    history = artifacts.stage("correlate", options, seed, [_input(a), _input(b)])
    return Artifact("correlation", header, tensors, history)


def _mask_pairs(a: Artifact, b: Artifact, pool: int | None) -> tuple[Tensor, Tensor, Tensor, dict[str, int]]:
    """Flattened masks (n, d) of both sides, labels (n), and how many rows were left out for which reason."""
    for file in (a, b):
        check_unit(file["masks"], str(file))
        if file["masks"].shape[-1] != spectrum.half_width(int(file.header["image_size"][1])):
            raise ArtifactError(f"{file}: masks are {list(file['masks'].shape)}, which does not fit its image_size")
    place_a, place_b = join([a, b])
    preserved = a["preserved"][place_a] & b["preserved"][place_b]
    dropped = {
        f"only in {a if a.name else 'A'}": len(a["labels"]) - len(place_a),
        f"only in {b if b.name else 'B'}": len(b["labels"]) - len(place_b),
        "not preserved on both sides": int((~preserved).sum()),
    }
    place_a, place_b = place_a[preserved], place_b[preserved]
    if not len(place_a):
        raise MaskError(f"{a} and {b}: no image keeps its class under both masks")
    if not torch.equal(a["labels"][place_a], b["labels"][place_b]):
        raise ArtifactError(f"{a} and {b} give the same images other labels")
    labels = a["labels"][place_a]
    check_range(labels, torch.iinfo(torch.int32).max, f"{a}: labels")
    return _flat(a, place_a, pool), _flat(b, place_b, pool), labels, {k: v for k, v in dropped.items() if v}


def _flat(file: Artifact, rows: Tensor, pool: int | None) -> Tensor:
    full = spectrum.to_full(file["masks"][rows], int(file.header["image_size"][1]))
    return (full if pool is None else spectrum.pool(full, pool)).flatten(1)


def _record(one: Statistic) -> dict[str, Any]:
    return {
        "name": one.name,
        "n": one.n,
        "observed": _plain(one.observed),
        "dropped": one.dropped,
        "details": {name: _plain(value) for name, value in one.details.items()},
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
    return {"for": side.header["for"], "attack": side.header["attack"], "shape": list(side["masks"].shape)}


def _input(side: Artifact | Tensor) -> Artifact | dict[str, str]:

    if isinstance(side, Artifact):
        return side
    digest = hashlib.sha256(side.contiguous().numpy().tobytes()).hexdigest()
    return {"name": "matrix", "split": "", "digest": digest}
