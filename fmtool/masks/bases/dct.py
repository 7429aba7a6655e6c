"""The orthonormal discrete cosine transform, DCT-II: real frequencies, without the wrap-around of the Fourier basis."""

from __future__ import annotations

import numpy as np

from fmtool.masks.bases.orthonormal import Orthonormal
from fmtool.masks.basis import EXACT, Array


class Cosine(Orthonormal):
    """Entry (u, v) has u / (2 h) cycles per pixel down and v / (2 w) across."""

    axes = "frequency in cycles per pixel"
    ticks = (0.0, 0.2, 0.4)

    @property
    def frequencies(self) -> Array:
        """From 0 to less than sqrt(0.5)."""
        down, across = (np.arange(n) / (2 * n) for n in (self.h, self.w))
        radius: Array = np.hypot(down[:, None], across).round(EXACT)
        return radius

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Half an entry beyond the outermost frequencies."""
        y, x = -0.25 / self.h, -0.25 / self.w
        return x, x + 0.5, y + 0.5, y

    def matrix(self, n: int) -> Array:
        u, x = np.arange(n)[:, None], np.arange(n)
        rows: Array = np.cos(np.pi * u * (2 * x + 1) / (2 * n)) * np.sqrt(2 / n)
        rows[0] = np.sqrt(1 / n)
        return rows
