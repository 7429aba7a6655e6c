"""Files of weights are told by their content, and pickles are read without running code."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fmtool.errors import ArtifactError, ModelError
from fmtool.models.checkpoints import read_weights
from fmtool.models.registry import ARCHITECTURES
from fmtool.models.unpickling import contents


def _resnet8(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES["resnet8"].build(1, outputs)


def test_old_pickles_from_before_zip_files_are_read(tmp_path: Path) -> None:
    weights = _resnet8().state_dict()
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    read = read_weights(str(tmp_path / "old.pth"))
    assert all(torch.equal(read[name], weights[name]) for name in weights)


class _Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


class _Evaluate(_Touch):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.processes
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("harm", "offender"), [(_Touch, rf"{os.system.__module__}\.system"), (_Evaluate, r"(builtins\.)?eval")]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_pickle_that_would_run_code_is_refused_and_does_not_run(
    zipped: bool, harm: type[_Touch], offender: str, hidden: bool, tmp_path: Path
) -> None:
    harmful: Any = harm(tmp_path / "ran")
    content = {"state_dict": {**_resnet8().state_dict(), "extra": harmful}} if hidden else harmful
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError) as caught:
        read_weights(str(path))
    told = rf"{path}: refused, unpickling it would run code \({offender}\): expected a state dict of tensors; "
    assert re.match(told, str(caught.value)) and "torch.save(torch.load(" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    torch.load(path, weights_only=False)  # the file is as harmful as it is meant to be
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "offender"),
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"path": Path("weights")}, r"pathlib\..*Path"),
        ({"best": np.array([object, 1], dtype=object)}, r"builtins\.object|numpy\.dtypes\.ObjectDType"),
    ],
)
def test_pickle_of_anything_but_tensors_names_what_it_holds(content: object, offender: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ModelError, match=rf"checkpoint.pth: refused, .*\({offender}\)"):
        read_weights(str(tmp_path / "checkpoint.pth"))


@pytest.mark.processes
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_torch_did_not_write_is_refused_likewise(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(pickle.dumps(_Touch(tmp_path / "ran"), protocol))
    assert b"system" in (tmp_path / "checkpoint.pth").read_bytes()
    told = rf"checkpoint.pth: refused, unpickling it would run code \({os.system.__module__}\.system\)"
    with pytest.raises(ModelError, match=told):
        read_weights(str(tmp_path / "checkpoint.pth"))
    assert not (tmp_path / "ran").exists()


def test_every_truncation_of_a_pickle_is_told(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(6.0)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(content) - 1, 37):
        (tmp_path / "part.pth").write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"part.pth: not a checkpoint"):
            read_weights(str(tmp_path / "part.pth"))


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"<html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes it"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:", "an ONNX graph"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "a gzip archive"),
        (b"", "the file is empty"),
        (("archive/data.pkl", "archive/constants.pkl", "archive/code/a.py"), "a TorchScript archive"),
        (("config.json", "model.weights.h5"), "a Keras model"),
        (("conv1.npy",), "an archive of NumPy arrays"),
        (("a.txt",), "a zip archive that torch.save did not write"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: Any, what: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    _zip(path, *content) if isinstance(content, tuple) else path.write_bytes(content)
    with pytest.raises(ModelError, match=f"^{re.escape(str(path))}: not a checkpoint: {what}"):
        read_weights(str(path))


@pytest.mark.parametrize("code", ["O", "V4"])
def test_numpy_objects_are_refused(code: str, tmp_path: Path) -> None:
    torch.save({"model": _resnet8().state_dict(), "extra": np.zeros(2, dtype=code)}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"weights\.pth: refused, unpickling it would run code \(numpy\.dtypes\.\w+\)"):
        read_weights(str(tmp_path / "weights.pth"))


def test_contents_are_what_was_saved_whatever_the_name_says(tmp_path: Path) -> None:
    """safetensors by their first bytes, also under another suffix; all else is unpickled."""
    weights = {"weight": torch.arange(3.0)}
    save_file(weights, tmp_path / "weights.pth")
    found = contents((tmp_path / "weights.pth").read_bytes(), "weights.pth")
    assert found.keys() == weights.keys() and torch.equal(found["weight"], weights["weight"])
    torch.save({"epoch": 3, "model": weights, "best": np.float64(0.5)}, tmp_path / "weights")
    found = contents((tmp_path / "weights").read_bytes(), "weights")
    assert found["epoch"] == 3 and found["best"] == 0.5 and torch.equal(found["model"]["weight"], weights["weight"])
    with pytest.raises(ArtifactError, match="not a complete safetensors file"):
        contents(b"text", "weights.safetensors")


def test_numpys_arrays_are_whole_and_defaultdicts_are_plain() -> None:
    """Filled by the pickle itself, as its own code would make them."""
    values = {"losses": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "b"]), "raw": np.array([b"x"])}
    stream = io.BytesIO()
    torch.save({**values, "state": collections.defaultdict(list)}, stream)
    found = contents(stream.getvalue(), "weights.pth")
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype for name, value in values.items()
    )
    assert type(found["state"]) is dict
