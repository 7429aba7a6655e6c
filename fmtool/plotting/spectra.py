"""Figures of spectra: mean masks, perturbations, and their energy against radial frequency (paper, A.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.masks import radial
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.registry import FOURIER
from fmtool.plotting.style import (
    COLOURS,
    GREY,
    INK,
    WIDE,
    distinct,
    mask_name,
    number_axes,
    plain_axes,
    radial_axis,
    succeeded,
    wrapped,
)
from fmtool.tables.spectra import Part, parts_of, size_of, source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fmtool.artifacts.format import Rows

# of the mean mask's colours: entries span three decades and many are exactly 0, which a logarithm can't show
GAMMA = 0.4
MAP, PROFILE = 2.0, 2.6  # inches, the heights of a mean spectrum and of a profile
LETTERS = 120  # of a legend's line that fit a page's width
LONG = 30  # characters of a mean spectrum's title that fit beside its profile
MAPS = 4  # mean spectra beside one another
FLOOR = 0.1  # % of the energy: smaller shares are not shown
FLAT = "same energy at every frequency"
AGAIN = ("-.", (0, (8, 1)), (0, (6, 1, 1, 1, 1, 1)))  # the lines of further curves in one colour
DECADES = 6  # of amplitude in a colour bar, at most


def mean_masks(files: Sequence[Artifact]) -> Figure:
    """Each file's mean mask over its images and channels, and the energy of all of them against radial frequency."""
    names = distinct([mask_name(file) for file in files], files)
    parts = [parts_of(source(file))[0] for file in files]
    means = [mean_mask(file.rows("masks"), part.basis) for file, part in zip(files, parts, strict=True)]
    columns = min(len(files), MAPS)
    rows = -(-len(files) // columns)
    tall = 0.7 + rows * (MAP if len(files) < MAPS else WIDE / (MAPS + 0.8))
    figure = Figure(figsize=(WIDE, 2.6 if len(files) == 1 else tall + PROFILE), layout="compressed")
    if len(files) == 1:
        halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.1])
    else:
        halves = figure.subfigures(2, 1, height_ratios=[tall, PROFILE])
    upper, lower = halves
    grid: Any = upper.subplots(rows, columns, squeeze=False)
    cells = [cell for row in grid for cell in row]
    norm = PowerNorm(GAMMA, vmin=0, vmax=max(float(mean.max()) for mean in means) or 1.0)
    mixed = len({part.basis.name for part in parts}) > 1  # then the axes differ
    for place, (cell, mean, part, name) in enumerate(zip(cells, means, parts, names, strict=False)):
        outer = place >= len(files) - columns, place % columns == 0
        image = _show(cell, mean, part.basis, norm, x=mixed or outer[0], y=mixed or outer[1])
        lines = [wrapped(line, WIDE / (MAPS + 0.8), 3) for line in name.replace(", ", ",\n", 1).split("\n")]
        cell.set_title("\n".join(lines) if columns > 2 else name, fontsize=7)
    for cell in cells[len(files) :]:
        cell.axis("off")
    upper.colorbar(image, ax=cells, label="mean mask", ticks=_ticks(norm.vmax or 1.0))
    axes = lower.subplots()
    _profiles(axes, parts, names, _colours(parts))
    _finish(axes, parts)
    _legend_outside(figure, axes)
    return figure


def perturbation(files: Sequence[Artifact]) -> Figure:
    """An attack's mean amplitude spectrum |F(adversarial - images)| over images and channels, and its energy's profile."""
    (file,) = files
    ok = succeeded(file)
    part = parts_of(source(file))[0]
    figure = Figure(figsize=(WIDE, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    mean = mean_amplitude(file.rows("images"), file.rows("adversarial"), ok)
    highest = float(mean.max()) or 1.0
    lowest = max(float(mean[mean > 0].min()) if bool((mean > 0).any()) else highest / 10, highest * 10.0**-DECADES)
    norm = LogNorm(lowest, max(highest, lowest * 1.01))
    image = _show(left, mean.clamp(min=lowest), part.basis, norm, x=True, y=True)
    left.set_title(
        f"{part.name},\nn = {int(ok.sum())}" if len(part.name) > LONG else f"{part.name}, n = {int(ok.sum())}"
    )
    label = r"mean amplitude $|F(x_{adv} - x)|$, log scale" + "\n(pixel values 0 to 1)"
    bar = figure.colorbar(image, ax=left, label=label)
    ticks = _log_ticks(lowest, highest)
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    colour = _colours([part])[0]
    _profiles(right, [part], [part.name], [colour])
    _mark_mean(right, part, colour, label=True)
    _finish(right, [part])
    _legend_outside(figure, right)
    return figure


def radial_profiles(files: Sequence[Artifact]) -> Figure:
    """Energy against radial frequency of masks and perturbations with 95 % bands; above, each mean radial frequency."""
    parts_and_files = [(parts_of(source(file))[0], file) for file in files]
    parts = [part for part, _ in parts_and_files]
    names = distinct([part.name for part in parts], [file for _, file in parts_and_files])
    colours = _colours(parts)
    shown = [name.replace(" on ", "\non ") for name in names]  # of an adaptive attack
    tall = len(parts) * (1.5 if shown != names else 1.0)
    figure = Figure(figsize=(WIDE, 2.9 + 0.19 * tall), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[0.5 + tall, 12])
    _profiles(below, parts, names, colours)
    _finish(below, parts)
    counts = []
    for place, (part, colour) in enumerate(zip(parts, colours, strict=True)):
        mean = radial.estimate(part.radial.frequency)
        counts.append(mean.n)
        if not mean.n:
            continue
        _mark_mean(below, part, colour)
        error = [[mean.mean - mean.low], [mean.high - mean.mean]] if mean.n > 1 else None
        above.errorbar([mean.mean], [place], xerr=error, fmt=_marker(part), color=colour, markersize=4, capsize=2)
    above.set_yticks(range(len(parts)), [f"{name}, n = {n}" for name, n in zip(shown, counts, strict=True)])
    above.set_ylim(len(parts) - 0.4, -0.6)
    above.set_title("mean radial frequency with its 95 % interval")
    above.tick_params(axis="x", labelbottom=False)
    plain_axes(above)
    styles: dict[str, Any] = {"masks": ("-", "o", INK), "perturbations": ("--", "s", INK), FLAT: (":", "", GREY)}
    handles = [
        Line2D([], [], linestyle=style, marker=marker, color=colour, markersize=4, label=name)
        for name, (style, marker, colour) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def mean_mask(masks: Rows, basis: Basis) -> Tensor:
    """The mean over masks and channels, float64, as `Basis.picture` has it; masks (n, c, rows, columns)."""
    total = torch.zeros(tuple(masks.shape[2:]), dtype=torch.float64)
    for rows in radial.row_blocks(masks):
        total += masks[rows].double().sum(dim=(0, 1))
    return basis.picture(total / (masks.shape[0] * masks.shape[1]))


def mean_amplitude(images: Rows, adversarial: Rows, keep: Tensor) -> Tensor:
    """(h, w) float64, zero frequency in the centre: |F(adversarial - images)|, averaged over channels and the images kept.

    images, adversarial (n, c, h, w) in [0, 1]; keep (n) bool, not all False. F is the DFT without a factor, as everywhere in
    fmtool.
    """
    c, h, w = images.shape[1:]
    basis = basis_for(FOURIER, h, w)
    total = torch.zeros(basis.shape, dtype=torch.float64)
    for rows in radial.row_blocks(images):
        if not bool(keep[rows].any()):  # a transform of no images is an error
            continue
        moved = (adversarial[rows].double() - images[rows].double())[keep[rows]]
        total += basis.magnitudes(moved).sum(dim=(0, 1))
    return basis.picture(total / (int(keep.sum()) * c))


def _show(axes: Axes, mean: Tensor, basis: Basis, norm: Any, *, x: bool, y: bool) -> Any:
    """x, y: whether the axes are named."""
    image = axes.imshow(mean.numpy(), cmap="viridis", norm=norm, extent=basis.extent, interpolation="nearest")
    number_axes(axes, basis.ticks, basis.extent, x=x, y=y)
    axes.set_xlabel("cycles per pixel, across" if x else "")
    axes.set_ylabel("cycles per pixel, down" if y else "")
    return image


def _ticks(highest: float) -> list[float]:
    """1, 2 or 5 times a power of ten: round values that stand apart under `GAMMA`."""
    steps = [round(step * 10.0**power, 6) for power in range(-5, 1) for step in (1, 2, 5)]
    ticks = [0.0]
    for step in steps:
        if step <= highest and (step / highest) ** GAMMA - (ticks[-1] / highest) ** GAMMA > 0.09:
            ticks.append(step)
    return ticks


def _log_ticks(lowest: float, highest: float) -> list[float]:
    """Round values between the two: a power of ten, in a narrower range also 2 and 5 times, or 1 to 9 times one."""
    decades = math.log10(highest / lowest)
    steps = (1,) if decades > 3 else (1, 2, 5) if decades > 1 else range(1, 10)
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    candidates = [float(f"{step}e{power}") for power in powers for step in steps]
    ticks = [tick for tick in candidates if lowest <= tick <= highest]
    return ticks if len(ticks) > 1 else [lowest, highest]


def _legend_outside(figure: Figure, axes: Axes) -> None:
    """Below all axes, where no curve runs through it."""
    handles, labels = axes.get_legend_handles_labels()
    most = 3 if 3 * max(map(len, labels)) <= LETTERS else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=min(most, len(labels)))


def _profiles(axes: Axes, parts: Sequence[Part], names: Sequence[str], colours: Sequence[str]) -> None:
    """Mean energy share a bin, with its 95 % band; perturbations are dashed, masks solid, or as in `AGAIN` if drawn before."""
    drawn: list[tuple[str, str]] = []
    for part, name, colour in zip(parts, names, colours, strict=True):
        shares, centres = radial.estimate(part.radial.profile), part.radial.centres
        look = ("--" if name.startswith("perturbations") else "-", colour)
        before = drawn.count(look)
        style: Any = AGAIN[(before - 1) % len(AGAIN)] if before else look[0]
        drawn.append(look)
        axes.plot(centres, 100 * shares.mean, linestyle=style, color=colour, label=f"{name}, n = {shares.n}")
        if shares.n > 1:
            low = (100 * shares.low).clip(min=FLOOR / 10)  # below what is shown, where the normal interval reaches 0
            axes.fill_between(centres, low, 100 * shares.high, color=colour, alpha=0.2, linewidth=0)


def _mark_mean(axes: Axes, part: Part, colour: str, *, label: bool = False) -> None:
    """A vertical line at the mean radial frequency, and its 95 % interval."""
    mean = radial.estimate(part.radial.frequency)
    if not mean.n:
        return
    half = f" ± {mean.high - mean.mean:.3f}" if mean.n > 1 else ""
    text = f"mean radial frequency {mean.mean:.3f}{half}"
    axes.axvline(mean.mean, color=colour, linestyle=(0, (4, 3)), linewidth=0.8, label=text if label else None)
    if mean.n > 1:
        axes.axvspan(mean.low, mean.high, color=colour, alpha=0.15, linewidth=0)


def _finish(axes: Axes, parts: Sequence[Part]) -> None:
    """Draw a flat spectrum for comparison, and label the axes."""
    bases = sorted({part.basis for part in parts}, key=size_of)
    for number, basis in enumerate(bases):
        flat = radial.flat(basis)
        label = f"{FLAT}, {basis.name}" if len({one.name for one in bases}) > 1 else FLAT
        style = (0, (1, 1.65 + 1.5 * number))  # dots further and further apart
        axes.plot(flat.centres, 100 * flat.profile[0], linestyle=style, color=GREY, label=label)
    radial_axis(axes, [part.radial.centres for part in parts])
    axes.set_ylabel("share of the energy (%), log scale")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 110)
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    plain_axes(axes)


def _colours(parts: Sequence[Part]) -> list[str]:
    """Black without an attack, else one colour per attack; by position where two sets would get the same colour and style."""
    attacks = list(dict.fromkeys(part.attack for part in parts if part.attack))
    looks = {(part.attack, _marker(part)) for part in parts}
    if len(looks) < len(parts) or len(attacks) > len(COLOURS):
        return [COLOURS[place % len(COLOURS)] for place in range(len(parts))]
    return [COLOURS[attacks.index(part.attack)] if part.attack else INK for part in parts]


def _marker(part: Part) -> str:
    return "s" if part.name.startswith("perturbations") else "o"
