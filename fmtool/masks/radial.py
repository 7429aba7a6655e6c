"""How a spectrum's energy is distributed over radial frequency, in cycles per pixel. Needs only NumPy.

The energy of a frequency is the square of a mask's entry, or |F x|^2 of an image or a perturbation x, summed over the channels.
Masks are stored as in their basis, (n, c, rows, columns); every sum here is over the full mask or the full spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmtool.errors import MaskError
from fmtool.masks.basis import EXACT, Array, Basis, basis_for
from fmtool.masks.registry import FOURIER

BLOCK = 2**26  # bytes of float64 worked on at a time
LOW, HIGH = 0.125, 0.25  # cycles per pixel: a quarter and half of the highest frequency along an axis
Z95 = 1.959964  # the 97.5 % quantile of the normal distribution: standard errors to either side of a 95 % interval


@dataclass(frozen=True)
class Radial:
    """Properties of n spectra, all float64; a spectrum without energy is NaN throughout.

    frequency (n): mean radial frequency, sum(r E) / sum(E), in cycles per pixel; profile (n, bins): share of the energy in each
    bin of radial frequency; centres (bins): the centres in cycles per pixel, 0 for the first, which holds the zero frequency
    alone; zero, low, high (n): share of the energy at the zero frequency, below `LOW`, above `HIGH`.
    """

    frequency: Array
    profile: Array
    centres: Array
    zero: Array
    low: Array
    high: Array

    @property
    def empty(self) -> int:
        """How many spectra have no energy."""
        return int(np.isnan(self.frequency).sum())


@dataclass(frozen=True)
class Estimate:
    """A mean over n rows with its 95 % interval, mean +- 1.96 s / sqrt(n), NaN for less than two rows; float64, per column."""

    mean: Any
    low: Any
    high: Any
    n: int


def per_cycle(h: int, w: int) -> int:
    """Bins in one cycle per pixel: the shorter side of images of height h and width w; the length of a signal, h or w of 1."""
    return min(h, w) if min(h, w) > 1 else max(h, w)


def bins_of(basis: Basis) -> Array:
    """(rows, columns) int64: each entry's bin; 1 / `per_cycle` cycles per pixel wide, centred on the multiples of that."""
    radius = frequencies(basis)
    bins = np.floor((radius * per_cycle(basis.h, basis.w)).round(EXACT - 2) + 0.5).astype(np.int64)
    # an elongated image has several frequencies near 0, but the zero frequency keeps its own bin
    return np.maximum(bins, radius > 0)


def frequencies(basis: Basis) -> Array:
    """(rows, columns) float64: each entry's radial frequency in cycles per pixel. MaskError in a basis without frequencies."""
    if basis.frequencies is None:
        raise MaskError(f"entries of masks in the basis {basis.name} have no radial frequency")
    return basis.frequencies


def row_blocks(rows: Any) -> Iterator[slice]:
    """Slices that cover an array (n, ...) or the rows of a file, few enough rows each to take `BLOCK` bytes as float64.

    Blocks are measured in bytes because a row takes 48 times as much at 224x224 as at 32x32.
    """
    n, *shape = (int(size) for size in rows.shape)
    step = max(BLOCK // max(8 * math.prod(shape), 1), 1)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def of_masks(masks: Any, basis: Basis) -> Radial:
    """masks (n, c, rows, columns): an array, or rows of a file, of which a few are read at a time."""
    blocks = (_float(masks[rows]) for rows in row_blocks(masks))
    return _measured(((block**2).sum(axis=1) for block in blocks), basis)


def of_images(images: Any, minus: Any = None, keep: Array | None = None) -> Radial:
    """images (n, c, h, w), or the differences images - minus; arrays or rows of a file. keep (n) bool: the rows measured."""
    h, w = images.shape[-2:]
    return _measured(_image_energies(images, minus, keep), basis_for(FOURIER, int(h), int(w)))


def flat(basis: Basis) -> Radial:
    """One spectrum with the same energy everywhere, like that of a mask of ones."""
    return of_masks(np.ones((1, 1, *basis.shape)), basis)


def estimate(values: Array) -> Estimate:
    """values (n) or (n, columns) float64; rows with a NaN are left out of the mean, the interval and n."""
    complete = values[~np.isnan(values).any(axis=tuple(range(1, values.ndim)))]
    n = len(complete)
    mean = complete.mean(axis=0) if n else np.full(values.shape[1:], np.nan)
    error = Z95 * complete.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1:], np.nan)
    return Estimate(mean, mean - error, mean + error, n)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n, NaN without any; it holds the share itself, whatever the rounding."""
    if not n:
        return math.nan, math.nan
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(max(share * (1 - share) / n + z2 / (4 * n * n), 0.0))
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def _image_energies(images: Any, minus: Any, keep: Array | None) -> Iterator[Array]:
    for rows in row_blocks(images):
        block = _float(images[rows])
        if minus is not None:
            block = block - _float(minus[rows])
        if keep is not None:
            block = block[keep[rows]]
        yield (np.abs(np.fft.rfft2(block)) ** 2).sum(axis=1)


def _measured(energies: Iterable[Array], basis: Basis) -> Radial:
    """energies: blocks (n, rows, columns)."""
    radius, bins = frequencies(basis), bins_of(basis)
    count = int(bins.max()) + 1
    weights = [
        np.ones_like(radius),
        radius,
        radius == 0,
        radius < LOW,
        radius > HIGH,
        *(bins == b for b in range(count)),
    ]
    # (rows * columns, 5 + count): one product gives all sums over the full spectrum
    table = (np.stack(weights) * basis.counts).reshape(len(weights), -1).T
    with np.errstate(all="ignore"):  # of values that are not finite: their shares are NaN, and left out of means
        sums = [np.zeros((0, table.shape[1])), *(block.reshape(-1, len(table)) @ table for block in energies)]
        energy = np.concatenate(sums)
        total = energy[:, :1]
        shares = np.divide(energy, total, out=np.full_like(energy, np.nan), where=total > 0)
    return Radial(
        shares[:, 1], shares[:, 5:], np.arange(count) / per_cycle(basis.h, basis.w), *(shares[:, i] for i in (2, 3, 4))
    )


def _float(rows: Any) -> Array:
    return np.asarray(rows).astype(np.float64)
