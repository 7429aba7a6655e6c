"""Figures of results: statistics beside their nulls, and the defence's matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fmtool.artifacts.format import Artifact
from fmtool.attacks.registry import title
from fmtool.correlation.registry import statistic_kind
from fmtool.errors import ArtifactError
from fmtool.plotting.style import COLOURS, GREY, INK, WIDE, as_number, plain_axes, wrapped
from fmtool.tables.correlations import are_masks, purpose
from fmtool.tables.table import p_form, text_of

COLUMN = 0.85  # inches, a column of the defence's matrix
# of a null distribution, fewest and most; in between, the root of the number of shuffles. Both nulls together: at most twice.
BINS = 5, 30
MERGED = 2  # stored bins of the cosine's histogram drawn as one: 50 bins of 0.04
ROUNDING = 1e-9  # of a value
DARK = 0.45  # accuracy below which white text is more readable than black, on cividis


def cosine_histogram(files: Sequence[Artifact]) -> Figure:
    """Densities of the cosine of each pair, and of all other pairs; their mean and the null's as lines."""
    (file,) = files
    pairs = file["cosine_pairs"].double().numpy()
    pairs = pairs[np.isfinite(pairs)]
    there = file.tensors.get("cosine_all_pairs_histogram")
    counts = np.zeros(0) if there is None else there.double().numpy()
    if not len(pairs) or not counts.sum() > 0 or not (counts >= 0).all() or len(counts) % MERGED:
        raise ArtifactError(f"{file}: holds no cosines to draw")
    # of the shuffles: the mean of the bins would be off by up to half a bin
    others = next(
        (as_number(one["null"]["mean"]) for one in file.header["statistics"] if one["name"] == "cosine"), math.nan
    )
    counts = counts.reshape(-1, MERGED).sum(axis=1)
    edges = np.linspace(-1, 1, len(counts) + 1)
    figure = Figure(figsize=(3.8, 2.7), layout="constrained")
    axes = figure.subplots()
    of_masks = are_masks(file.header["sides"])
    same = "masks of the same image" if of_masks else "rows of the same pair"
    different = "masks of different images" if of_masks else "rows of different pairs"
    null = counts / counts.sum() / np.diff(edges)
    own = np.histogram(pairs.clip(-1, 1), bins=edges)[0] / len(pairs) / np.diff(edges)
    axes.stairs(null, edges, fill=True, color=GREY, alpha=0.45, label=different)
    axes.stairs(own, edges, color=COLOURS[0], linewidth=1.3, label=f"{same}, n = {len(pairs)}")
    axes.axvline(others, color=GREY, linestyle="--", linewidth=1, label=f"null mean {text_of(others, '.3f')}")
    axes.axvline(pairs.mean(), color=COLOURS[0], linestyle="--", linewidth=1, label=f"mean {pairs.mean():.3f}")
    used = np.flatnonzero((null > 0) | (own > 0))
    axes.set_xlim(min(0.0, float(edges[used[0]])), 1)
    axes.set_xlabel("cosine")
    axes.set_ylabel("density")
    axes.set_title(_sides(file))
    plain_axes(axes)
    order = [0, 2, 1, 3]
    handles, labels = axes.get_legend_handles_labels()
    figure.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=2)
    return figure


def null_distributions(files: Sequence[Artifact]) -> Figure:
    """Each statistic's permutation null, and the one within classes, as histograms; the observed value as a line."""
    (file,) = files
    statistics = file.header["statistics"]
    if not statistics:
        raise ArtifactError(f"{file}: holds no statistic")
    columns = min(len(statistics), 3)
    rows = -(-len(statistics) // columns)
    figure = Figure(figsize=(max(2.15 * columns + 0.3, 3.4), 0.5 + 2.3 * rows), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    cells = [cell for row in grid for cell in row]
    for place, (axes, one) in enumerate(zip(cells, statistics, strict=False)):
        nulls = [
            ("shuffled", f"{one['name']}_null", COLOURS[0]),
            ("shuffled within classes", f"{one['name']}_null_within_class", COLOURS[1]),
        ]
        held = [_finite(file, tensor) for _, tensor, _ in nulls]
        edges = _edges(held)
        for (name, _, colour), values in zip(nulls, held, strict=True):
            if len(values):
                axes.hist(values, bins=edges, color=colour, alpha=0.55, label=name)
        if one["observed"] is not None:
            axes.axvline(one["observed"], color=INK, linewidth=1.2, label="observed")
        lines = [f"{statistic_kind(one['name']).heading} {text_of(as_number(one['observed']), '.3f')}, n = {one['n']}"]
        form = p_form(file.header["permutations"], least=3)
        lines += [_verdict("", one["null"], form)]
        lines += [_verdict("in classes: ", one["within_class"], form)] if one["within_class"] else []
        axes.set_title("\n".join(lines), fontsize=7)
        axes.set_xlabel(statistic_kind(one["name"]).heading)
        axes.set_ylabel("shuffles" if place % columns == 0 else "")
        plain_axes(axes)
    for axes in cells[len(statistics) :]:
        axes.axis("off")
    shown = {label: handle for axes in cells for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3)
    figure.suptitle(_sides(file), fontsize=8)
    return figure


def defense_matrix(files: Sequence[Artifact]) -> Figure:
    """The matrix as a heat map: accuracy, in brackets the authors' figure; adaptive attacks framed, missing cells hatched."""
    from matplotlib.patches import Rectangle

    (file,) = files
    matrix, names = list(file.header["matrix"]), [title(name) for name in file.header["rows"]]
    if file.header.get("worst"):  # below the attacks that knew nothing of the masks, as in the table
        place = next((y for y, row in enumerate(matrix) if any(c and c.get("adaptive") for c in row)), len(matrix))
        matrix.insert(place, file.header["worst"])
        names.insert(place, "worst of these,\nper image")
    columns = ["no mask" if name == "none" else _column(name) for name in file.header["columns"]]
    values = np.array([[cell["accuracy"] if cell else math.nan for cell in row] for row in matrix])
    figure = Figure(
        figsize=(min(1.7 + COLUMN * len(columns), 2 * WIDE), 0.95 + 0.42 * len(names)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    adaptive = False
    for y, row in enumerate(matrix):
        for x, cell in enumerate(row):
            corner = (x - 0.5, y - 0.5)
            if not cell:
                axes.add_patch(Rectangle(corner, 1, 1, facecolor="#DDDDDD", edgecolor=GREY, hatch="////", linewidth=0))
                continue
            text = f"{cell['accuracy']:.3f}\n({cell['accuracy_right_before']:.3f})"
            colour = "white" if cell["accuracy"] < DARK else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)
            if cell.get("adaptive"):
                adaptive = True
                inner = (x - 0.46, y - 0.45)
                axes.add_patch(Rectangle(inner, 0.92, 0.9, fill=False, edgecolor=COLOURS[1], linewidth=1.6))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set_xlabel("class masks")
    axes.set_ylabel("images")
    figure.colorbar(image, ax=axes, label="accuracy")
    note = f"n = {file.header['n']}; in brackets: right when clean too"
    axes.set_title(f"{note}; framed: adaptive" if adaptive else f"{note}; no attack is adaptive", fontsize=7)
    return figure


def _column(name: str) -> str:
    """Masks of a purpose, and below it of an attack."""
    return "\n".join(wrapped(part, COLUMN, 5) for part in name.split(" ", 1))


def _finite(file: Artifact, tensor: str) -> np.ndarray[Any, Any]:
    """The finite values of a null distribution; empty if the file lacks it."""
    values = file[tensor].double().numpy() if tensor in file.tensors else np.zeros(0)
    return np.asarray(values[np.isfinite(values)])


def _edges(nulls: Sequence[np.ndarray[Any, Any]]) -> Any:
    """Edges of bins that several distributions share, so that heights are comparable: as narrow as the narrowest needs."""
    known = [values for values in nulls if len(values)]
    if not known:
        return []
    counts = [min(max(math.isqrt(len(values)), BINS[0]), BINS[1]) for values in known]
    widths = [float(np.ptp(values)) / count for values, count in zip(known, counts, strict=True)]
    every = np.concatenate(known)
    narrowest = min((width for width in widths if width), default=0.0)
    bins = math.ceil(float(np.ptp(every)) / narrowest - 1e-9) if narrowest else BINS[0]
    return np.histogram_bin_edges(every, bins=min(bins, 2 * BINS[1]), range=_reach(every))


def _verdict(name: str, null: Mapping[str, Any], form: str) -> str:
    """p in this format, and the adjusted value."""
    return f"{name}p {text_of(as_number(null['p']), form)}, adjusted {text_of(as_number(null['adjusted']), '.3f')}"


def _sides(file: Artifact) -> str:
    """The two sides of the correlation."""
    return " and ".join(purpose(side) or "matrix" for side in file.header["sides"])


def _reach(values: np.ndarray[Any, Any]) -> tuple[float, float] | None:
    """The histogram's range if values differ only by rounding, as for a statistic that no shuffle changes."""
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    around = max(0.5, largest / 2)
    return (low - around, high + around) if high - low < ROUNDING * largest else None
