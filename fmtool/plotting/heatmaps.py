"""Figures of heat maps: errors at each frequency, filter curves, and the comparison with masks and perturbations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure

from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError
from fmtool.masks import radial
from fmtool.masks.basis import basis_for
from fmtool.masks.registry import FILTERS, FOURIER
from fmtool.plotting.grids import fitted_to
from fmtool.plotting.spectra import GAMMA, mean_amplitude, mean_mask
from fmtool.plotting.style import COLOURS, GREY, INK, WIDE, number_axes, plain_axes, radial_axis, succeeded
from fmtool.tables.heatmaps import band_means, check_maps
from fmtool.tables.spectra import arrays, parts_of, source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]
TICKS = [-0.4, 0.0, 0.4]


def heatmap(files: Sequence[Artifact]) -> Figure:
    """Left: the error rate under noise of each frequency. Right: the accuracy on filtered images against the filter's radius, or,
    where the file has none, the error rate against radial frequency; bands are 95 % intervals.
    """
    (file,) = files
    figure = Figure(figsize=(WIDE, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    errors = 100 * _error_rate(file)
    picture = _show(left, errors, _shades(errors))
    left.set_title(f"error %, n = {len(file['clean_wrong'])}, norm {file.header['norm']:.3g}")
    figure.colorbar(picture, ax=left, label="error rate (%)")
    if file.header["filters"]:
        _draw_filters(right, file)
    else:
        _draw_bands(right, file, COLOURS[0])
        right.set_ylabel("error rate (%)")
    right.set_xlabel("radial frequency (cycles per pixel)")
    plain_axes(right)
    right.legend(loc="best")
    return figure


def compare(files: Sequence[Artifact]) -> Figure:
    """Above: heat map, mean essential mask, mean adversarial mask and mean perturbation, at one scale of frequency. Below: the
    error rate, and the energy of masks and perturbations, against radial frequency; bands are 95 % intervals.

    ArtifactError where the files are of several models or image sizes, or masks are not in the Fourier basis.
    """
    heat, essential, adversarial, attack = _in_order(files)
    figure = Figure(figsize=(WIDE, 5.0), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=[1, 1.35])
    above = [figure.add_subplot(grid[0, place]) for place in range(4)]
    names = ["error rate (%)", "mean essential mask", "mean adversarial mask", "mean perturbation"]
    size = tuple(heat.header["image_size"])
    basis = basis_for(FOURIER, *size)
    masks = [mean_mask(file.rows("masks"), basis).numpy() for file in (essential, adversarial)]
    moved = mean_amplitude(attack.rows("images"), attack.rows("adversarial"), succeeded(attack)).numpy()
    highest, errors = max(float(moved.max()), 1e-12), 100 * _error_rate(heat)
    pictures: list[tuple[Array, Any]] = [
        (errors, _shades(errors)),
        *((mean, PowerNorm(GAMMA, vmin=0, vmax=max(float(mean.max()), 1e-12))) for mean in masks),
        (moved.clip(highest * 1e-6), LogNorm(max(float(moved.min()), highest * 1e-6), highest)),
    ]
    for place, (axes, name, (values, norm)) in enumerate(zip(above, names, pictures, strict=True)):
        picture = _show(axes, values, norm, y=place == 0)
        axes.set_title(name, fontsize=7)
        bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.9)
        bar.set_ticks(norm.inverse(np.array([0.0, 0.5, 1.0])).tolist())
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        bar.minorticks_off()
        bar.ax.tick_params(labelsize=7)
    left, right = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:])
    _draw_bands(left, heat, INK)
    left.set_ylabel("error rate (%)")
    centred = [np.array(band_means(heat.header, arrays(heat)).radii)]
    for file, style, colour in (
        (essential, "-", COLOURS[0]),
        (adversarial, "-", COLOURS[1]),
        (attack, "--", COLOURS[1]),
    ):
        part = parts_of(source(file))[0]
        shares, centres = radial.estimate(part.radial.profile), part.radial.centres
        centred.append(centres)
        right.plot(centres, 100 * shares.mean, style, color=colour, label=f"{part.name}, n = {shares.n}")
        if shares.n > 1:
            right.fill_between(
                centres, 100 * shares.low.clip(0), 100 * shares.high, color=colour, alpha=0.2, linewidth=0
            )
    right.set_ylabel("share of the energy (%)")
    for axes in (left, right):
        radial_axis(axes, centred)
        plain_axes(axes)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _in_order(files: Sequence[Artifact]) -> tuple[Artifact, Artifact, Artifact, Artifact]:
    """Heat map, essential masks, adversarial masks, attack: of one model and one size."""
    kinds = {file.header["for"] if file.kind == "masks" else file.kind: file for file in files}
    try:
        ordered = (kinds["heatmap"], kinds["essential"], kinds["adversarial"], kinds["attack"])
    except KeyError:
        raise ArtifactError(
            "--figure compare: expected essential and adversarial masks, got two of one purpose"
        ) from None
    if not fitted_to(ordered[2], ordered[3]):
        raise ArtifactError(f"--figure compare: {ordered[2]} is not fitted to the images of {ordered[3]}")
    models, sizes = {str(file.input_digest("model")) for file in files}, set()
    for file in files:
        sizes.add(tuple(file.rows("images").shape[2:]) if file.kind == "attack" else tuple(file.header["image_size"]))
        if file.kind == "masks" and file.header["basis"] != FOURIER:
            raise ArtifactError(f"{file}: masks in the basis {file.header['basis']} have no frequencies to compare")
    if len(models) > 1 or len(sizes) > 1:
        what = "models" if len(models) > 1 else "sizes of images"
        raise ArtifactError(f"--figure compare: expected files of one model, got several {what}")
    return ordered


def _error_rate(file: Artifact) -> Array:
    """(h, w) of the full spectrum, zero frequency in the centre."""
    check_maps(file.header, arrays(file))
    half = file["error_rate"].double().nan_to_num(0.0).clamp(0, 1)
    full: Array = basis_for(FOURIER, *file.header["image_size"]).to_full(half).numpy()
    return np.asarray(np.fft.fftshift(full))


def _shades(errors: Array) -> Normalize:
    """Colours from the lowest to the highest error rate in %; from 0, to 1 at least, if all are equal."""
    lowest, highest = float(errors.min()), float(errors.max())
    return Normalize(lowest, highest) if lowest < highest else Normalize(0.0, max(highest, 1.0))


def _show(axes: Axes, values: Array, norm: Any, *, y: bool = True) -> Any:
    """A spectrum (h, w), zero frequency in the centre; y: whether the vertical axis is named."""
    extent = basis_for(FOURIER, *values.shape).extent
    image = axes.imshow(values, cmap="viridis", norm=norm, extent=extent, interpolation="nearest")
    number_axes(axes, TICKS, extent, x=True, y=y)
    axes.set_xlabel("cycles per pixel" if not y else "cycles per pixel, across")
    axes.set_ylabel("cycles per pixel, down" if y else "")
    return image


def _draw_bands(axes: Axes, file: Artifact, colour: str) -> None:
    bands, n = band_means(file.header, arrays(file)), len(file["clean_wrong"])
    axes.plot(bands.radii, 100 * bands.error.mean, color=colour, label=f"noise of one frequency, n = {n}")
    if n > 1:
        low, high = 100 * bands.error.low, 100 * bands.error.high
        axes.fill_between(bands.radii, low, high, color=colour, alpha=0.2, linewidth=0)
    clean = 100 * float(file["clean_wrong"].double().mean()) if n else math.nan
    axes.axhline(clean, color=GREY, linestyle=":", linewidth=1, label="clean images")


def _draw_filters(axes: Axes, file: Artifact) -> None:
    filters, n = file.header["filters"], len(file["clean_wrong"])
    for kind, colour, marker in zip(FILTERS, COLOURS, "o^s", strict=False):
        counts = filters["right"][kind]
        shares = [count / n for count in counts] if n else [math.nan] * len(counts)
        ends = np.array([radial.share_interval(share, n) for share in shares])
        axes.plot(filters["radii"], 100 * np.array(shares), marker=marker, ms=2.5, color=colour, label=kind)
        axes.fill_between(filters["radii"], *(100 * ends.T), color=colour, alpha=0.2, linewidth=0)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(-2, 102)
