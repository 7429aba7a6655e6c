"""Labels of any integer type, one-hot rows or names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fmtool.datasets.data import load
from fmtool.datasets.labels import in_order, numbered, printable_name
from fmtool.datasets.source import Source, Split
from fmtool.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 7)).astype(np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_labels_of_any_integer_type(dtype: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS.astype(dtype))
    found = load(str(tmp_path / "d.npz"))
    assert found.labels.tolist() == LABELS.tolist() and found.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_labels_of_safetensors_too(dtype: str, tmp_path: Path) -> None:
    save_file(
        {"images": torch.from_numpy(PIXELS), "labels": torch.from_numpy(LABELS.astype(dtype))},
        tmp_path / "d.safetensors",
    )
    assert load(str(tmp_path / "d.safetensors")).labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_one_hot_labels(dtype: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=np.eye(3)[LABELS].astype(dtype))
    assert load(str(tmp_path / "d.npz")).labels.tolist() == LABELS.tolist()


def test_labels_that_are_names(tmp_path: Path) -> None:
    names = np.array(["owl", "cat", "dog", "dog", "cat", "owl"])
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=names)
    found = load(str(tmp_path / "d.npz"))
    assert found.class_names == ("cat", "dog", "owl") and found.labels.tolist() == LABELS.tolist()
    np.savez(tmp_path / "e.npz", images=PIXELS, labels=names.astype("S"), class_names=np.array(["owl", "dog", "cat"]))
    found = load(str(tmp_path / "e.npz"))
    assert found.class_names == ("owl", "dog", "cat") and found.labels.tolist() == [0, 2, 1, 1, 2, 0]
    np.savez(tmp_path / "f.npz", images=PIXELS, labels=names, class_names=np.array(["owl", "dog"]))
    with pytest.raises(DataError, match="label 'cat' is not one of its class names"):
        load(str(tmp_path / "f.npz"))
    np.savez(tmp_path / "g.npz", images=PIXELS, labels=names, class_names=np.array(["owl", "dog", "cat", "owl"]))
    with pytest.raises(DataError, match="several of its classes are called 'owl': expected labels that are numbers"):
        load(str(tmp_path / "g.npz"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(float), r"labels are float64 \[6\], expected 6 integers, one-hot rows or names"),
        (np.full((6, 3), 1 / 3), "these rows are not one-hot"),
        (np.eye(3)[LABELS] * 2, "these rows are not one-hot"),
        (LABELS - 1, "labels range from -1 to 1, expected 0"),
        (np.full(6, 2**63, dtype=np.uint64), "labels go up to 9223372036854775808"),
    ],
)
def test_labels_that_are_none(labels: np.ndarray[Any, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=labels)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "d.npz"))


def test_class_names_that_are_numbers_are_ordered_as_such() -> None:
    assert in_order(["10", "9", "1", "1"]) == ("1", "9", "10") and in_order(["10", "9", "x"]) == ("10", "9", "x")
    assert in_order(["b", "B", "a", "é"]) == ("B", "a", "b", "é")


def test_labels_of_all_splits_are_numbered_together() -> None:
    """A name that only one split holds counts in the other."""
    splits = {"train": Split(PIXELS[:3], ["b", "c", "b"]), "test": Split(PIXELS[:2], np.array([b"a", b"c"]))}
    labels, names = numbered(Source(splits), "set")
    assert names == ("a", "b", "c") and labels["train"].tolist() == [1, 2, 1] and labels["test"].tolist() == [0, 2]
    mixed = {**splits, "test": Split(PIXELS[:2], [0, 1])}
    with pytest.raises(DataError, match=r"^set: labels are names in one split and numbers in another$"):
        numbered(Source(mixed), "set")
    for labels_of, what in (([None, 1], "objects"), (["a"], "objects"), (7, "int64")):
        with pytest.raises(DataError, match=rf"set: labels are .*{what}.*expected 2 integers, one-hot rows or names"):
            numbered(Source({"train": Split(PIXELS[:2], labels_of)}), "set")


def test_bytes_of_a_name_that_are_not_unicode_are_replaced() -> None:
    assert printable_name("kätze") == "kätze"
    assert printable_name(b"k\xe4tze".decode(errors="surrogateescape")) == "k\N{REPLACEMENT CHARACTER}tze"
    assert printable_name("half \ud83d") == "half ?"
