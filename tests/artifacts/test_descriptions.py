"""Descriptions are the same, whether or not a file is read into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fmtool
from fmtool.artifacts import descriptions
from fmtool.artifacts import files as whole_files
from fmtool.artifacts.descriptions import describe
from fmtool.errors import ArtifactError


def test_a_large_file_is_described_as_a_small_one(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in files.glob("*.safetensors"):
        small = describe(str(path))
        with monkeypatch.context() as patch:
            patch.setattr(descriptions, "LARGE", 0)
            patch.setattr(whole_files, "read_bytes", lambda source: pytest.fail(f"{source} is read whole"))
            large = describe(str(path))
        assert replace(large, in_file=None) == replace(small, data=b"") and large.in_file is not None
        arrays = large.arrays()
        for name, array in small.arrays().items():
            assert np.array_equal(np.asarray(arrays[name][:]), array), (path.name, name)


def test_a_large_file_of_another_kind_is_refused_and_one_of_an_unusual_type_is_read(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    halved = {name: tensor.half() for name, tensor in model.tensors.items() if tensor.is_floating_point()}
    half = replace(model, tensors={**model.tensors, **halved})
    fmtool.write(half, str(tmp_path / "half"))
    save_file({"x": torch.ones(3)}, tmp_path / "foreign")
    monkeypatch.setattr(descriptions, "LARGE", 0)
    assert describe(str(tmp_path / "half")).digest == describe(str(tmp_path / "half"), "model").digest
    with pytest.raises(ArtifactError, match="expected an attack file"):
        describe(str(files / "model.safetensors"), "attack")
    with pytest.raises(ArtifactError, match="a safetensors file that fmtool did not write"):
        describe(str(tmp_path / "foreign"))
