"""Figures of curves: statistics against the number of classes (paper, Figure 4), and against the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from fmtool.artifacts.format import Artifact
from fmtool.attacks.registry import title
from fmtool.correlation.registry import ADJUSTABLE_BELOW, statistic_kind
from fmtool.errors import ArtifactError
from fmtool.plotting.style import COLOURS, GREY, INK, WIDE, as_number, distinct, plain_axes
from fmtool.tables.correlations import attacked_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = Mapping[str, Any]
Value = Callable[[Point], float]
MARKERS = "osD^vP"  # besides colours, so that curves can be distinguished in greyscale
P_FLOOR: dict[str, Any] = {"color": INK, "linestyle": (0, (1, 3)), "linewidth": 0.8}
NUMBERED = 10  # sizes on a linear axis that have room for labels
APART = 1.3  # least ratio of neighbouring sizes that both get a label on a logarithmic axis


def class_curves(files: Sequence[Artifact]) -> Figure:
    """IdCor and p against the number of classes k, a colour per attack: means over class subsets, bands from lowest to highest.

    Left, as the paper's Figure 4: observed (solid), the nulls' means (dotted), p (dashed, right axis) and its floor. Right: the
    adjusted value of these means; subsets whose null lies near 1 would dominate a mean of adjusted values. Below each k stands
    the mean number of pairs, because more classes also mean more pairs; the control is as many pairs of all classes.
    """
    names = distinct([_attack_name(file) for file in files], files)
    figure = Figure(figsize=(WIDE, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    share = left.twinx()
    controlled: dict[str, str] = {}
    statistic = _in_all(files)
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        mine = _entries(file, "class_subsets", statistic)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        _line(left, mine, _observed, "-", marker=marker, color=colour, label=name)
        _line(left, mine, _null("mean"), ":", band=False, color=colour, linewidth=1)
        _line(share, mine, _null("p"), "--", band=False, color=colour, alpha=0.5, linewidth=1)
        adjusted = _adjusted(mine)
        right.plot(list(adjusted), list(adjusted.values()), marker=marker, color=colour, label=name, markersize=3.5)
        if file.header["curves"].get("equal_pairs"):  # files of version 0.1 have no control
            control = _adjusted(_entries(file, "equal_pairs", statistic))
            right.plot(list(control), list(control.values()), "-.", color=colour, linewidth=1)
            controlled = {"as many pairs of all classes": "-."}
    heading = statistic_kind(statistic).heading
    left.set_ylabel(heading)
    left.set_title("means over subsets; bands: lowest to highest", fontsize=7)
    share.set_ylabel("p")
    for floor in sorted({1 / (1 + file.header["permutations"]) for file in files}):
        share.axhline(floor, **P_FLOOR)
    share.set_ylim(0, max(0.05, share.get_ylim()[1]))
    share.spines["top"].set_visible(False)
    left.spines["top"].set_visible(False)
    right.set_ylabel(f"{heading}, chance-adjusted")
    right.set_title("(mean observed - mean null) / (1 - mean null)", fontsize=7)
    right.axhline(0, color=GREY, linewidth=0.6)
    plain_axes(right)
    pairs = _pairs([_entries(file, "class_subsets", statistic) for file in files])
    for axes in (left, right):
        axes.set_xticks(list(pairs), _thinned([f"{size}\n{n}" for size, n in pairs.items()]))
        axes.set_xlabel(
            f"number of classes k\nmean number of pairs n{', lowest and highest' if len(files) > 1 else ''}"
        )
    styles = {"observed": "-", "null mean": ":", "p (right axis)": "--", **controlled}
    handles = [
        *right.get_legend_handles_labels()[0],
        *(Line2D([], [], color=GREY, ls=s, label=n) for n, s in styles.items()),
        Line2D([], [], **P_FLOOR, label="p floor 1/(1 + N)"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=7, columnspacing=1.2)
    return figure


def subsample_curves(files: Sequence[Artifact]) -> Figure:
    """Each statistic, its null and its adjusted value against the number of rows n; the last point is all rows.

    Above: single subsamples as points, their mean as a line, the null's mean and 95 % band. Below: adjusted values,
    as points, and the adjusted value of the means as a line.
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
        adjusted = _adjusted(mine)
        below.plot(list(adjusted), list(adjusted.values()), "-", color=COLOURS[0])
        below.axhline(0, color=GREY, linewidth=0.6)
        above.set_title(statistic_kind(statistic).heading)
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
    entries = [entry for entry in file.header["curves"][curve] if entry["statistic"] == statistic]
    if not entries:
        raise ArtifactError(f"{file}: its curve does not hold {statistic}")
    return sorted(entries, key=lambda entry: int(entry["size"]))


def _in_all(files: Sequence[Artifact]) -> str:
    """The statistic that is drawn against the number of classes: IdCor, or the first one that all files hold."""
    held: list[list[str]] = [[entry["statistic"] for entry in file.header["curves"]["class_subsets"]] for file in files]
    shared = [name for name in ("idcor", *held[0]) if all(name in names for names in held)]
    if not shared:
        raise ArtifactError(f"the class subsets of {', '.join(map(str, files))} share no statistic")
    return shared[0]


def _adjusted(entries: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """By size: (observed - null) / (1 - null) of the means over subsets, except where this would magnify noise."""
    observed, null = (dict(_values(entries, value)) for value in (_observed, _null("mean")))
    means = {size: (float(observed[size].mean()), float(null[size].mean())) for size in observed if size in null}
    return {size: (one - chance) / (1 - chance) for size, (one, chance) in means.items() if chance < ADJUSTABLE_BELOW}


def _pairs(curves: Sequence[Sequence[Mapping[str, Any]]]) -> dict[int, str]:
    """By size: the number of pairs, a mean over the subsets that are drawn; of several files the lowest and the highest."""
    counts: dict[int, list[int]] = {int(entry["size"]): [] for entries in curves for entry in entries}
    for entries in curves:
        for entry in entries:
            drawn = [point["n"] for point in entry["points"] if "reason" not in point]
            counts[int(entry["size"])] += [round(sum(drawn) / len(drawn))] if drawn else []
    ends = {
        size: sorted({min(numbers), max(numbers)}) if numbers else ["-"] for size, numbers in sorted(counts.items())
    }
    return {size: "\n".join(map(str, numbers)) for size, numbers in ends.items()}


def _thinned(labels: Sequence[str]) -> list[str]:
    """All of them, or every second, third, ... counted from the last, if more would not fit."""
    step = -(-len(labels) // NUMBERED)
    return [label if (len(labels) - 1 - place) % step == 0 else "" for place, label in enumerate(labels)]


def _whole(file: Artifact, statistic: str) -> list[Mapping[str, Any]]:
    """The value over all rows, as an entry with one point."""
    return [
        {"size": file.header["n"], "points": [one]} for one in file.header["statistics"] if one["name"] == statistic
    ]


def _observed(point: Point) -> float:
    return as_number(point.get("observed"))


def _null(name: str) -> Value:
    return lambda point: as_number((point.get("null") or {}).get(name))


def _values(
    entries: Sequence[Mapping[str, Any]], value: Value, *, whole: bool = True
) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """(size, values) for each size that has any, without subsets that have no statistic.

    whole: sizes at which only some of the others have the value are left out, as in the tables: a mean would be of other subsets
    than its neighbours.
    """
    values_by_size = []
    for entry in entries:
        values = np.array([value(point) for point in entry["points"] if "reason" not in point], dtype=float)
        known = values[np.isfinite(values)]
        if len(known) and (len(known) == len(values) or not whole):
            values_by_size.append((int(entry["size"]), known))
    return values_by_size


def _line(
    axes: Axes, entries: Sequence[Mapping[str, Any]], value: Value, style: str, *, band: bool = True, **more: Any
) -> None:
    """The mean against the size, and a band from the lowest to the highest value."""
    points = _values(entries, value)
    sizes = [size for size, _ in points]
    axes.plot(sizes, [values.mean() for _, values in points], style, markersize=3.5, **more)
    if band:
        low, high = [values.min() for _, values in points], [values.max() for _, values in points]
        axes.fill_between(sizes, low, high, color=more["color"], alpha=0.15, linewidth=0)


def _scatter(axes: Axes, entries: Sequence[Mapping[str, Any]], value: Value) -> None:
    """All single values."""
    points = _values(entries, value, whole=False)
    sizes = [size for size, values in points for _ in values]
    values = [one for _, values in points for one in values]
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
    """A logarithmic axis labelled at the sizes themselves, from the largest down, where there is room."""
    axes.set_xscale("log")
    numbered: list[int] = []
    span = max(sizes) / min(sizes)
    for size in sorted(set(sizes), reverse=True):
        if not numbered or numbered[-1] / size >= max(APART, span**0.2):
            numbered.append(size)
    axes.set_xticks(sorted(numbered), [str(size) for size in sorted(numbered)])
    axes.xaxis.set_minor_locator(NullLocator())


def _attack_name(file: Artifact) -> str:
    side = attacked_side(file.header["sides"])
    return title(side["attack"]) if side else "pairs"
