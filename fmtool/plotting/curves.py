"""Figures of curves: statistics against the number of classes (paper, Figure 4), and against the number of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from fmtool.artifacts import Artifact
from fmtool.attacks import title
from fmtool.errors import ArtifactError
from fmtool.plotting.style import COLOURS, GREY, WIDE, distinct, plain_axes
from fmtool.summaries.correlations import HEADINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = Mapping[str, Any]
Value = Callable[[Point], float]
MARKERS = "osD^vP"  # with the colours, so that curves are told apart in grey too
APART = 1.3  # ratio of neighbouring sizes that both get a number on a logarithmic axis


def class_curves(files: Sequence[Artifact]) -> Figure:
    """IdCor and p against the number of classes k, a colour an attack: means over class subsets, bands from lowest to highest.

    Left, as the paper's Figure 4: observed (solid), the nulls' means (dotted), p (dashed, right axis). Right: adjusted values.
    """
    names = distinct([_attack_name(file) for file in files], files)
    figure = Figure(figsize=(WIDE, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    share = left.twinx()
    statistic = ""
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        entries = file.header["curves"]["class_subsets"]
        statistic = statistic or next(
            (e["statistic"] for e in entries if e["statistic"] == "idcor"), entries[0]["statistic"]
        )
        mine = _entries(file, "class_subsets", statistic)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        _line(left, mine, _observed, "-", marker=marker, color=colour, label=name)
        _line(left, mine, _null("mean"), ":", band=False, color=colour, linewidth=1)
        _line(share, mine, _null("p"), "--", band=False, color=colour, alpha=0.5, linewidth=1)
        _line(right, mine, _null("adjusted"), "-", marker=marker, color=colour, label=name)
    heading = HEADINGS.get(statistic, statistic)
    left.set_ylabel(heading)
    share.set_ylabel("p")
    share.set_ylim(0, max(0.05, share.get_ylim()[1]))
    share.spines["top"].set_visible(False)
    left.spines["top"].set_visible(False)
    right.set_ylabel(f"{heading}, chance-adjusted")
    right.axhline(0, color=GREY, linewidth=0.6)
    plain_axes(right)
    sizes = sorted({e["size"] for file in files for e in _entries(file, "class_subsets", statistic)})
    for axes in (left, right):
        axes.set_xticks(sizes)
        axes.set_xlabel("number of classes k")
    styles = {"observed": "-", "null mean": ":", "p (right axis)": "--"}
    handles = [
        *right.get_legend_handles_labels()[0],
        *(Line2D([], [], color=GREY, ls=s, label=n) for n, s in styles.items()),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


def subsample_curves(files: Sequence[Artifact]) -> Figure:
    """Each statistic, its null and its adjusted value against the number of rows n; the last point is all rows.

    Above: single subsamples as points, their mean as a line, the null's mean and 95 % band. Below: adjusted values.
    """
    (file,) = files
    statistics = list(dict.fromkeys(entry["statistic"] for entry in file.header["curves"]["subsample"]))
    columns = min(len(statistics), 4)
    blocks = -(-len(statistics) // columns)
    figure = Figure(figsize=(max(1.7 * columns + 0.6, 3.4), 0.5 + 3.3 * blocks), layout="constrained")
    grid: Any = figure.subplots(2 * blocks, columns, squeeze=False)
    for place, statistic in enumerate(statistics):
        block, column = divmod(place, columns)
        above, below = grid[2 * block][column], grid[2 * block + 1][column]
        whole = _whole(file, statistic)
        mine = [entry for entry in _entries(file, "subsample", statistic) if entry["size"] != file.header["n"]] + whole
        _scatter(above, mine, _observed)
        _line(above, mine, _observed, "-", band=False, color=COLOURS[0], label="mean")
        _line(above, mine, _null("mean"), "--", band=False, color=COLOURS[1], label="null mean")
        _band(above, mine)
        last = _values(whole, _observed)
        sizes, values = [size for size, _ in last], [one[0] for _, one in last]
        above.plot(sizes, values, "D", color=COLOURS[0], mfc="white", ms=4, label="all rows")
        _scatter(below, mine, _null("adjusted"))
        _line(below, mine, _null("adjusted"), "-", band=False, color=COLOURS[0])
        below.axhline(0, color=GREY, linewidth=0.6)
        above.set_title(HEADINGS.get(statistic, statistic))
        below.set_xlabel("n (log scale)")
        for axes in (above, below):
            _log_sizes(axes, [entry["size"] for entry in mine])
            plain_axes(axes)
        below.set_xlim(above.get_xlim())  # also where no value can be adjusted, all shuffles being at 1
        above.tick_params(axis="x", labelbottom=False)
        if column == 0:
            above.set_ylabel("value")
            below.set_ylabel("chance-adjusted")
    for place in range(len(statistics), columns * blocks):
        block, column = divmod(place, columns)
        grid[2 * block][column].axis("off")
        grid[2 * block + 1][column].axis("off")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 if columns < 3 else 5)
    return figure


def _entries(file: Artifact, curve: str, statistic: str) -> list[Mapping[str, Any]]:
    """A statistic's entries of a curve, by size."""
    found = [entry for entry in file.header["curves"][curve] if entry["statistic"] == statistic]
    if not found:
        raise ArtifactError(f"{file}: its curve does not hold {statistic}")
    return sorted(found, key=lambda entry: int(entry["size"]))


def _whole(file: Artifact, statistic: str) -> list[Mapping[str, Any]]:
    """The value over all rows, as an entry with one point."""
    return [
        {"size": file.header["n"], "points": [one]} for one in file.header["statistics"] if one["name"] == statistic
    ]


def _observed(point: Point) -> float:
    return _number(point.get("observed"))


def _null(name: str) -> Value:
    return lambda point: _number((point.get("null") or {}).get(name))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _values(
    entries: Sequence[Mapping[str, Any]], value: Value, *, whole: bool = True
) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """(size, values) for each size that has any, without the subsets that allow no statistic.

    whole: sizes at which only some of the others have the value are left out, as in the tables: a mean would be of other subsets
    than its neighbours.
    """
    found = []
    for entry in entries:
        values = np.array([value(point) for point in entry["points"] if "reason" not in point], dtype=float)
        known = values[np.isfinite(values)]
        if len(known) and (len(known) == len(values) or not whole):
            found.append((int(entry["size"]), known))
    return found


def _line(
    axes: Axes, entries: Sequence[Mapping[str, Any]], value: Value, style: str, *, band: bool = True, **more: Any
) -> None:
    """The mean against the size, and a band from the lowest to the highest value."""
    found = _values(entries, value)
    sizes = [size for size, _ in found]
    axes.plot(sizes, [values.mean() for _, values in found], style, markersize=3.5, **more)
    if band:
        low, high = [values.min() for _, values in found], [values.max() for _, values in found]
        axes.fill_between(sizes, low, high, color=more["color"], alpha=0.15, linewidth=0)


def _scatter(axes: Axes, entries: Sequence[Mapping[str, Any]], value: Value) -> None:
    """Every single value."""
    found = _values(entries, value, whole=False)
    sizes = [size for size, values in found for _ in values]
    values = [one for _, values in found for one in values]
    axes.plot(
        sizes,
        values,
        ".",
        color=COLOURS[0],
        alpha=0.5,
        markersize=4,
        markeredgewidth=0,
        label="each subsample",
    )


def _band(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    """The null's 95 % band, its limits averaged over the subsamples of a size."""
    lows, highs = dict(_values(entries, _null("low"))), dict(_values(entries, _null("high")))
    sizes = [size for size in lows if size in highs]
    low, high = [lows[size].mean() for size in sizes], [highs[size].mean() for size in sizes]
    axes.fill_between(sizes, low, high, color=COLOURS[1], alpha=0.2, linewidth=0, label="null 95 %")


def _log_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis numbered at the sizes themselves, from the largest down where they stand apart."""
    axes.set_xscale("log")
    numbered: list[int] = []
    span = max(sizes) / min(sizes)
    for size in sorted(set(sizes), reverse=True):
        if not numbered or numbered[-1] / size >= max(APART, span**0.2):
            numbered.append(size)
    axes.set_xticks(sorted(numbered), [str(size) for size in sorted(numbered)])
    axes.xaxis.set_minor_locator(NullLocator())


def _attack_name(file: Artifact) -> str:
    attack = next((side["attack"] for side in reversed(file.header["sides"]) if side["attack"]), None)
    return title(attack) if attack else "pairs"
