"""CIFAR's batches, pickled and binary, against torchvision's reader and the official files; pickles that would run code."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchvision.datasets import CIFAR10, CIFAR100

from fmtool.datasets.data import load
from fmtool.errors import DataError

TEN = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
NAMES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]


def _write(path: Path, content: Any, protocol: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def _ten(folder: Path, protocol: int = 2, key: Any = bytes) -> None:
    rng = np.random.default_rng(0)
    for name in TEN:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, 4).tolist()
        keys = (b"data", b"labels") if key is bytes else ("data", "labels")
        _write(folder / name, {keys[0]: data, keys[1]: labels, "batch_label": name}, protocol)
    _write(folder / "batches.meta", {"label_names": NAMES}, protocol)


class _Unchecked10(CIFAR10):
    def _check_integrity(self) -> bool:
        return True


class _Unchecked100(CIFAR100):
    def _check_integrity(self) -> bool:
        return True


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("key", [bytes, str])
def test_pickled_batches_of_every_protocol(protocol: int, key: Any, tmp_path: Path) -> None:
    _ten(tmp_path / "cifar-10-batches-py", protocol, key)
    source = str(tmp_path / "cifar-10-batches-py")
    test, train = load(source), load(f"{source}:train")
    assert (len(train), len(test)) == (20, 4) and test.class_names[:2] == ("airplane", "automobile")
    batch = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert np.array_equal(test.images.flatten(1).numpy(), batch[b"data" if key is bytes else "data"])
    assert test.format == "cifar" and load(str(tmp_path)).digest == test.digest  # from the folder around it too


def test_pickled_batches_are_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    _ten(folder, 2, str)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split in ("train", "test"):
        theirs = _Unchecked10(str(tmp_path), train=split == "train")
        ours = load(f"{folder}:{split}")
        assert (
            np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), theirs.data)
            and ours.labels.tolist() == theirs.targets
        )


def test_cifar_100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rng = tmp_path / "cifar-100-python", np.random.default_rng(0)
    for name in ("train", "test"):
        data = rng.integers(0, 256, (5, 3072), dtype=np.uint8)
        _write(folder / name, {"data": data, "fine_labels": [9, 1, 2, 3, 0], "coarse_labels": [0] * 5}, 2)
    _write(folder / "meta", {"fine_label_names": [f"class {k}" for k in range(10)], "coarse_label_names": ["x"]}, 2)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    ours, theirs = load(str(folder)), _Unchecked100(str(tmp_path), train=False)
    assert ours.labels.tolist() == theirs.targets == [9, 1, 2, 3, 0] and list(ours.class_names) == theirs.classes
    assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), theirs.data)


def test_binary_batches_hold_the_same_images(shared_data: Path, tmp_path: Path) -> None:
    """The first images of the official test batch, as a binary file would hold them; more where the whole set is at hand."""
    with safe_open(shared_data / "cifar10-test-1017.safetensors", "np") as content:
        images, labels = content.get_tensor("images"), content.get_tensor("labels")
        names = json.loads(content.metadata()["class_names"])
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1).astype(
        np.uint8
    )
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name in TEN:
        (tmp_path / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(records.tobytes())
    found = load(str(tmp_path / "cifar-10-batches-bin"))
    assert np.array_equal(found.images.numpy(), images) and np.array_equal(found.labels.numpy(), labels)
    assert list(found.class_names) == names and found.splits == {"train": 5 * 1017, "test": 1017}
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load(str(tmp_path / "cifar-10-batches-bin")).class_names == tuple("abcdefghij")
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("traffic light\n" + "\n".join("bcdefghij"))
    assert load(str(tmp_path / "cifar-10-batches-bin")).class_names == ("traffic light", *"bcdefghij")
    one = load(str(tmp_path / "cifar-10-batches-bin" / "test_batch.bin"))
    assert one.split == "whole" and torch.equal(one.images, found.images)


def test_binary_cifar_100_has_two_label_bytes(tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 256, (3, 3074), dtype=np.uint8)
    records[:, 1] = [99, 0, 7]
    for name in ("train", "test"):
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"c{k}" for k in range(100)))
    found = load(str(tmp_path))
    assert found.labels.tolist() == [99, 0, 7] and found.class_names[7] == "c7"
    assert np.array_equal(found.images.flatten(1).numpy(), records[:, 2:])


class _Runs:
    """A pickle that would run a command when it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch $HERE",)


@pytest.mark.processes
@pytest.mark.parametrize(
    "content",
    [_Runs(), {b"data": _Runs(), b"labels": [0]}, {b"data": np.array([_Runs()], dtype=object), b"labels": [0]}],
    ids=["alone", "in the batch", "in an array"],
)
def test_a_pickle_that_would_run_code_is_refused(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path / "ran"))
    pickle.loads(pickle.dumps(content))
    assert (tmp_path / "ran").exists()  # it does
    (tmp_path / "ran").unlink()
    _write(tmp_path / "set" / "test_batch", content, 4)
    with pytest.raises(DataError, match=r"test_batch: holds posix.system, which is not an array: refused"):
        load(str(tmp_path / "set"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", [b"builtins\neval", b"numpy\nload", b"numpy.core.multiarray\nfromfile", b"_codecs\ndecode", b"fmtool\nread"]
)
def test_no_other_name_is_unpickled(name: bytes, tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(b"c" + name + b"\n.")
    with pytest.raises(DataError, match="which is not an array"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"labels": [0]}, "has no data and labels"),
        ([1, 2], "has no data and labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, r"holds data uint8 \[2, 3072\] and labels \[1\]"),
        ({b"data": np.zeros((2, 300), np.uint8), b"labels": [0, 1]}, r"holds data uint8 \[2, 300\]"),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, r"holds data float64"),
    ],
)
def test_batches_that_are_none(content: Any, message: str, tmp_path: Path) -> None:
    _write(tmp_path / "test_batch", content, 4)
    with pytest.raises(DataError, match=f"test_batch.*{message}"):
        load(str(tmp_path))


def test_missing_and_cut_batches_are_told(tmp_path: Path) -> None:
    _ten(tmp_path)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(DataError, match="has no data_batch_3"):
        load(str(tmp_path))
    (tmp_path / "test_batch").write_bytes((tmp_path / "test_batch").read_bytes()[:999])
    with pytest.raises(DataError, match="test_batch can't be unpickled"):
        load(str(tmp_path / "test_batch"))
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match=r"test_batch.bin is 3072 bytes, not a multiple of 3073"):
        load(str(tmp_path / "test_batch.bin"))


def test_only_the_test_batch_has_no_training_split(tmp_path: Path) -> None:
    _ten(tmp_path)
    for name in TEN[:5]:
        (tmp_path / name).unlink()
    assert load(str(tmp_path)).splits == {"test": 4}
    with pytest.raises(DataError, match="has no split 'train', only test"):
        load(f"{tmp_path}:train")
