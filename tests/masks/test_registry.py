"""The tables of bases and objectives."""

from __future__ import annotations

from typing import get_args

import pywt

from fmtool.masks.basis import basis_for
from fmtool.masks.registry import BASES, EXPECTED, OBJECTIVES, WAVELETS, ObjectiveName, mask_suffix


def test_all_names_are_there() -> None:
    """PyWavelets calls these orthogonal, beside `dmey`, which is so only nearly."""
    known = {name for name in pywt.wavelist(kind="discrete") if pywt.Wavelet(name).orthogonal} - {"dmey"}
    assert set(WAVELETS) == known
    for name in BASES:
        assert basis_for(name, 4, 4).name == name


def test_messages_name_the_bases_and_a_few_wavelets() -> None:
    assert EXPECTED.startswith("one of fourier, dct, pixels, phase, or an orthonormal wavelet")
    named = EXPECTED.partition("such as ")[2].replace(" or ", ", ").split(", ")
    assert set(named) == {"haar", "db2", "sym4", "coif1"} <= set(WAVELETS)


def test_objectives_are_those_of_the_type() -> None:
    assert set(OBJECTIVES) == set(get_args(ObjectiveName))


def test_names_of_masks_tell_what_is_not_the_papers() -> None:
    """Class masks of version 0.1 name neither basis nor objective."""
    assert mask_suffix({}) == mask_suffix({"basis": "fourier", "objective": "label"}) == ""
    assert mask_suffix({"basis": "dct", "objective": "invariance"}) == ", dct, invariance"
    assert mask_suffix({"objective": "distribution"}) == ", distribution"
