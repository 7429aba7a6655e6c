"""Figure of statistics against the threshold at or below which entries of masks are set to 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from fmtool.artifacts.format import Artifact
from fmtool.correlation.registry import statistic_kind
from fmtool.plotting.style import COLOURS, GREY, as_number, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Entry = Mapping[str, Any]


def trim_curves(files: Sequence[Artifact]) -> Figure:
    """A column for each statistic. Above: its value, and the mean and 95 % band of its null; below: both adjusted values.

    Thresholds are equally spaced, as 0 has no place on a logarithmic axis. A missing value leaves a gap.
    """
    (file,) = files
    curve = file.header["curves"]["trim"]
    statistics = list(dict.fromkeys(entry["statistic"] for entry in curve))
    columns = min(len(statistics), 4)
    blocks = -(-len(statistics) // columns)
    figure = Figure(figsize=(max(1.7 * columns + 0.6, 3.4), 0.7 + 3.4 * blocks), layout="constrained")
    grid: Any = figure.subplots(2 * blocks, columns, squeeze=False)
    for place in range(blocks * columns):
        block, column = divmod(place, columns)
        above, below = grid[2 * block][column], grid[2 * block + 1][column]
        if place >= len(statistics):
            above.axis("off")
            below.axis("off")
            continue
        name = statistics[place]
        entries = sorted((entry for entry in curve if entry["statistic"] == name), key=_threshold)
        _draw_values(above, entries)
        _draw_adjusted(below, entries)
        above.set_title(statistic_kind(name).heading)
        above.tick_params(axis="x", labelbottom=False)
        if column == 0:
            above.set_ylabel("value")
            below.set_ylabel("chance-adjusted")
    shown = {
        label: handle for axes in grid[:2, 0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=2 if columns < 3 else 5)
    return figure


def _draw_values(axes: Axes, entries: Sequence[Entry]) -> None:
    places = range(len(entries))
    axes.plot(
        places, _values(entries, lambda entry: entry["observed"]), "o-", color=COLOURS[0], ms=3.5, label="observed"
    )
    axes.plot(places, _values(entries, lambda entry: entry["null"]["mean"]), "--", color=COLOURS[1], label="null mean")
    low, high = (
        _values(entries, lambda entry: entry["null"]["low"]),
        _values(entries, lambda entry: entry["null"]["high"]),
    )
    axes.fill_between(places, low, high, color=COLOURS[1], alpha=0.2, linewidth=0, label="null 95 %")
    _name_thresholds(axes, entries)


def _draw_adjusted(axes: Axes, entries: Sequence[Entry]) -> None:
    places = range(len(entries))
    axes.plot(
        places,
        _values(entries, lambda entry: entry["null"]["adjusted"]),
        "s-",
        color=COLOURS[0],
        ms=3.5,
        label="adjusted",
    )
    if any(entry.get("within_class") for entry in entries):
        within = _values(entries, lambda entry: (entry["within_class"] or {}).get("adjusted"))
        axes.plot(places, within, "^-", color=COLOURS[2], ms=3.5, label="adjusted within classes")
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set_xlabel("entries up to this are 0")
    _name_thresholds(axes, entries)


def _name_thresholds(axes: Axes, entries: Sequence[Entry]) -> None:
    axes.set_xticks(range(len(entries)), [f"{_threshold(entry):g}" for entry in entries], rotation=45, ha="right")
    axes.set_xlim(-0.3, len(entries) - 0.7)
    plain_axes(axes)


def _threshold(entry: Entry) -> float:
    return float(entry["threshold"])


def _values(entries: Sequence[Entry], value: Callable[[Entry], float | None]) -> list[float]:
    """One value per threshold, NaN if there is none."""
    known = [None if "reason" in entry else value(entry) for entry in entries]
    return [as_number(one) for one in known]
