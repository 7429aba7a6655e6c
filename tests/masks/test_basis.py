"""What a file says of its basis, and what follows from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from half_spectrum import fourier

import fmtool
from fmtool.errors import ArtifactError, MaskError
from fmtool.masks.basis import basis_for, basis_of, check_shape


def test_files_name_their_basis(files: Path) -> None:
    for name in ("essential", "robust"):
        file = fmtool.read(str(files / f"{name}.safetensors"))
        assert file.header["basis"] == "fourier"
        assert check_shape(file.rows("masks"), file.header, file) is fourier(8, 8)


def test_class_masks_of_version_0_1_are_in_the_fourier_basis(files: Path) -> None:
    """They have no such field."""
    file = fmtool.read(str(files / "robust.safetensors"))
    header = {name: value for name, value in file.header.items() if name != "basis"}
    assert basis_of(header, file) is fourier(8, 8)


def test_a_basis_of_another_version_is_named(files: Path) -> None:
    a, b = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("essential", "adversarial"))
    other = dataclasses.replace(a, header={**a.header, "basis": "hartley"})
    with pytest.raises(ArtifactError, match="masks are in the basis 'hartley', expected one of fourier, dct"):
        fmtool.correlate(other, b)
    with pytest.raises(MaskError, match="--basis"):
        basis_for("hartley", 8, 8)


def test_masks_that_do_not_fit_their_image_size_are_refused(files: Path) -> None:
    file = fmtool.read(str(files / "essential.safetensors"))
    with pytest.raises(ArtifactError, match="does not fit images of"):
        check_shape(file.rows("masks"), {**file.header, "image_size": [8, 10]}, file)
