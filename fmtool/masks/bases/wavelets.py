"""Orthonormal wavelets by PyWavelets' names: periodic, all levels along rows and then along columns."""

from __future__ import annotations

import numpy as np

from fmtool.errors import MaskError
from fmtool.masks.bases.orthonormal import Orthonormal
from fmtool.masks.basis import Array

# the precision of PyWavelets' coefficients of symlets; larger errors mean that a wavelet is not orthonormal
ORTHONORMAL = 1e-9


class Wavelet(Orthonormal):
    """Coefficients along an axis run from the coarsest to the finest level, for as many levels as its length can be halved."""

    def __init__(self, name: str, h: int, w: int) -> None:
        super().__init__(name, h, w)
        if h % 2 or w % 2:
            raise MaskError(f"--basis {name}: expected an even height and width, got {h}x{w}")

    def matrix(self, n: int) -> Array:
        try:
            import pywt
        except ImportError:
            raise MaskError(f'--basis {self.name}: needs PyWavelets, which the extra "wavelets" installs') from None
        approximation, details = np.eye(n), []
        while len(approximation) % 2 == 0:
            approximation, detail = pywt.dwt(approximation, self.name, mode="periodization", axis=0)
            details.append(detail)
        rows: Array = np.concatenate([approximation, *reversed(details)])
        if np.abs(rows @ rows.T - np.eye(n)).max() > ORTHONORMAL:
            raise MaskError(f"--basis {self.name}: this wavelet is not orthonormal")
        return rows
