"""Reading figures back, and correlation files with curves for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fmtool.artifacts.format import Artifact

Load = Callable[[str], Artifact]


def pictures(figure: Any) -> list[np.ndarray]:
    """What the figure's cells show, row by row, without the colour bar."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def lines(axes: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The data of an axes' lines."""
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]


def row_of(file: Artifact, key: int) -> int:
    """Where a file holds an image."""
    return int(file["key"].tolist().index(key))


def with_cosines(file: Artifact) -> Artifact:
    """Cosines of four pairs and of five others."""
    counts = torch.zeros(100, dtype=torch.int64)
    counts[[50, 51, 60, 99]] = torch.tensor([1, 1, 2, 1])
    more = {"cosine_pairs": torch.tensor([0.01, 0.5, 0.51, 1.0]).double(), "cosine_all_pairs_histogram": counts}
    return replace(file, tensors={**file.tensors, **more})


def null(mean: float, adjusted: float | None, p: float) -> dict[str, Any]:
    return {
        "mean": mean, "low": mean - 0.1, "high": mean + 0.2, "p": p, "floor": 0.01, "adjusted": adjusted, "reason": "",
    }  # fmt: skip


def point(observed: float, shift: float = 0.0) -> dict[str, Any]:
    adjusted = None if observed > 0.85 else observed / 2
    return {"n": 20, "observed": observed, "null": null(shift - 0.3, adjusted, observed / 10), "within_class": None}


def with_curves(file: Artifact, attack: str, *which: str) -> Artifact:
    """Three sizes with three points each, one of them too small to tell."""
    values = {1: [0.1, 0.2], 2: [0.3, 0.4, 0.8], 3: [0.5, 0.9]}
    few = {"classes": [0], "n": 2, "reason": "too few"}
    entries = [
        {"statistic": name, "size": size, "points": [*map(point, numbers), *([few] if size == 1 else [])]}
        for name in ("cosine", "idcor")
        for size, numbers in values.items()
    ]
    subsample = [{**entry, "size": 10 * entry["size"]} for entry in entries]
    equal = [
        {
            **entry,
            "points": [{**one, "observed": one["observed"] - 0.1} for one in entry["points"] if "reason" not in one],
        }
        for entry in entries
    ]
    curves = {"class_subsets": entries, "equal_pairs": equal, "subsample": subsample}
    sides = [{"for": "essential", "attack": None}, {"for": "adversarial", "attack": attack}]
    header = {**file.header, "sides": sides, "curves": {name: curves[name] for name in which}}
    return replace(file, header=header)


def with_trims(file: Artifact) -> Artifact:
    """Three thresholds in no order, one without a value; all adjusted values by hand."""
    entries = [
        {"statistic": "idcor", "threshold": threshold, "columns": [4, 5], **more}
        for threshold, more in (
            (1e-3, point(0.2)), (0.0, {**point(0.4), "within_class": null(0.1, None, 0.5)}), (0.5, {"n": 9, "reason": "few"}),
        )
    ]  # fmt: skip
    return replace(file, header={**file.header, "curves": {"trim": entries}})
