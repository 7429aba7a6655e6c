"""MNIST's idx files, plain and gzipped. That they are what torchvision reads is in test_torchvision_sets.py."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmtool.datasets.data import load
from fmtool.errors import DataError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (4, 6, 5)), np.array([3, 0, 3, 1])


def _idx(values: np.ndarray[Any, Any], kind: int = 8, dtype: str = "u1") -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + values.astype(dtype).tobytes()


@pytest.fixture(params=["", ".gz"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    pack = gzip.compress if request.param else bytes
    for part, n in (("train", 4), ("t10k", 2)):
        (tmp_path / f"{part}-images-idx3-ubyte{request.param}").write_bytes(pack(_idx(IMAGES[:n])))
        (tmp_path / f"{part}-labels-idx1-ubyte{request.param}").write_bytes(pack(_idx(LABELS[:n])))
    return tmp_path


def test_a_folder_has_both_splits_and_a_file_is_whole(folder: Path) -> None:
    train, test = load(f"{folder}:train"), load(str(folder))
    assert np.array_equal(train.images[:, 0].numpy(), IMAGES) and train.labels.tolist() == LABELS.tolist()
    assert np.array_equal(test.images[:, 0].numpy(), IMAGES[:2]) and test.split == "test" and test.format == "idx"
    one = load(str(next(folder.glob("train-images*"))))
    assert one.split == "whole" and one.digest == train.digest


def test_what_lacks_or_is_damaged_is_told(folder: Path) -> None:
    labels = next(folder.glob("t10k-labels*"))
    with pytest.raises(DataError, match="holds labels: expected the file of images beside it"):
        load(str(labels))
    content = labels.read_bytes()
    labels.unlink()
    with pytest.raises(DataError, match="has no t10k-labels file"):
        load(str(folder))
    with pytest.raises(DataError, match="has no labels: expected t10k-labels-idx1-ubyte beside it"):
        load(str(next(folder.glob("t10k-images*"))))
    for damaged in (content[:-3], b"", b"\0\0\x08", b"\1" + content[1:]):
        labels.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte|can't be read as MNIST's idx files"):
            load(str(folder))


def test_several_data_sets_in_a_folder_are_asked_about(tmp_path: Path) -> None:
    for which in ("emnist-digits-", "emnist-letters-"):
        (tmp_path / f"{which}test-images-idx3-ubyte").write_bytes(_idx(IMAGES))
        (tmp_path / f"{which}test-labels-idx1-ubyte").write_bytes(_idx(LABELS))
    with pytest.raises(DataError, match="holds 2 data sets"):
        load(str(tmp_path))
    assert len(load(str(tmp_path / "emnist-letters-test-images-idx3-ubyte"))) == 4


def test_other_types_and_four_axes(tmp_path: Path) -> None:
    colour = RNG.random((4, 3, 6, 5)).astype(np.float32)
    (tmp_path / "train-images-idx4-ubyte").write_bytes(_idx(colour, 0x0D, ">f4"))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(_idx(LABELS, 0x0C, ">i4"))
    found = load(f"{tmp_path}:train")
    assert np.array_equal(found.images.numpy(), colour) and found.labels.tolist() == LABELS.tolist()
