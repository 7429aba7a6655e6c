"""The bases that masks can be in, and what they can be fitted for. Reading this table imports nothing heavy.

To add a basis, write `fmtool/masks/bases/<module>.py` with a subclass of `Basis` and add one line to `BASES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fmtool.models.registry import INPUT

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
ObjectiveName = Literal["label", "invariance", "distribution"]
LABEL: ObjectiveName = "label"
# what a mask is fitted for, see `objectives`
OBJECTIVES: dict[ObjectiveName, str] = {
    "label": "cross-entropy with the target (the paper)",
    "invariance": "the same cross-entropy as the unfiltered image's (Karantzas et al. 2022)",
    "distribution": "the same softmax as the unfiltered image's, by KL divergence",
}
FILTERS = ("low-pass", "high-pass", "band-pass")  # of a heat map
_NAMES = [name for name in BASES if name not in WAVELETS]
EXPECTED = f"one of {', '.join(_NAMES)}, or an orthonormal wavelet of PyWavelets such as haar, db2, sym4 or coif1"


def layer_of(header: Mapping[str, Any]) -> str:
    """What a file's masks are masks of: "input", the images, or a layer's name; class masks are of images."""
    return str(header.get("layer", INPUT))


def mask_suffix(header: Mapping[str, Any]) -> str:
    """What the name of masks ends with where their options, in a file's header or a record of one side of a correlation, are
    not the paper's: ", dct, layer1, invariance, adapted lambda".
    """
    chosen = (
        (header.get("basis", FOURIER), FOURIER),
        (layer_of(header), INPUT),
        (header.get("objective", LABEL), LABEL),
        ("adapted lambda" if header.get("adapt_lambda") else "", ""),
    )
    return "".join(f", {name}" for name, usual in chosen if name != usual)
