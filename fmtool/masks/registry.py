"""The bases that masks can be in. Reading this table imports nothing heavy.

To add a basis, write `fmtool/masks/bases/<module>.py` with a subclass of `Basis` and add one line to `BASES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOURIER = "fourier"
# PyWavelets' names of its orthonormal wavelets
WAVELETS = (
    "haar",
    *(f"db{order}" for order in range(1, 39)),
    *(f"sym{order}" for order in range(2, 21)),
    *(f"coif{order}" for order in range(1, 18)),
)
# name -> the class that implements it, in `fmtool.masks.bases`
BASES = {
    FOURIER: "fourier:Fourier",
    "dct": "dct:Cosine",
    **dict.fromkeys(WAVELETS, "wavelets:Wavelet"),
    "pixels": "pixels:Pixels",
    "phase": "phase:Phase",
}
_NAMES = [name for name in BASES if name not in WAVELETS]
EXPECTED = f"one of {', '.join(_NAMES)}, or an orthonormal wavelet of PyWavelets such as haar, db2, sym4 or coif1"


def basis_suffix(header: Mapping[str, Any]) -> str:
    """What the name of a file's masks ends with where they are not in the Fourier basis: ", dct"."""
    name = header.get("basis", FOURIER)
    return "" if name == FOURIER else f", {name}"
