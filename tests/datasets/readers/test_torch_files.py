"""What torch.save writes of images and labels; nothing else in such a file is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from fmtool.datasets.data import load
from fmtool.errors import DataError

IMAGES = torch.randint(0, 256, (6, 3, 8, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize(
    "content",
    [
        {"images": IMAGES, "labels": LABELS}, {"images": list(IMAGES), "labels": LABELS.tolist()},
        {"x": IMAGES, "y": LABELS.int()}, {"data": IMAGES, "targets": LABELS},
        (IMAGES, LABELS), [IMAGES, LABELS], (LABELS, IMAGES), TensorDataset(IMAGES, LABELS),
        {"test": (IMAGES, LABELS), "train": (IMAGES[:2], LABELS[:2])}, {"test": {"images": IMAGES, "labels": LABELS}},
        {"test": TensorDataset(IMAGES, LABELS)}, {"x_test": IMAGES, "y_test": LABELS, "x_train": IMAGES, "y_train": LABELS},
    ],
    ids=["dict", "lists", "x and y", "targets", "tuple", "list", "swapped", "TensorDataset", "splits", "nested",
         "split", "x_test"],
)  # fmt: skip
def test_all_that_holds_tensors(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "d.pt")
    found = load(str(tmp_path / "d.pt"))
    assert torch.equal(found.images, IMAGES) and torch.equal(found.labels, LABELS) and found.format == "torch_files"
    assert torch.equal(load(str(tmp_path / "d.pt"), rows=(2, 4)).images, IMAGES[2:4])


@pytest.mark.parametrize(
    "content", [torch.nn.Linear(2, 2).state_dict(), {"state_dict": {}, "epoch": 3}], ids=["bare", "wrapped"]
)
def test_weights_are_no_images(content: Any, tmp_path: Path) -> None:
    torch.save({"body.weight": LABELS, **content}, tmp_path / "d.pt")
    with pytest.raises(
        DataError, match=r"d.pt: holds a network's weights, not images: import-model --architecture makes"
    ):
        load(str(tmp_path / "d.pt"))


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch $HERE",)


def test_nothing_else_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path / "ran"))
    torch.save({"images": IMAGES, "labels": _Runs()}, tmp_path / "d.pt")
    with pytest.raises(DataError, match=r"d.pt: can't be read as .pt"):
        load(str(tmp_path / "d.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES, "holds a Tensor, expected a dict, or a pair of tensors"),
        ((IMAGES, LABELS, LABELS), "holds a tuple, expected"),
        ((IMAGES, LABELS[:3]), r"holds tensors of \[6, 3, 8, 7\] and \[3\]"),
        ({"weight": IMAGES}, "has no tensor images and labels, .*it holds weight"),
        ({}, "it holds nothing"),
    ],
)
def test_other_contents_are_told(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "d.pt")
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "d.pt"))


def test_damaged_files_are_told(tmp_path: Path) -> None:
    torch.save((IMAGES, LABELS), tmp_path / "d.pt")
    content = (tmp_path / "d.pt").read_bytes()
    for damaged in (content[:300], b"", b"hello"):
        (tmp_path / "d.pt").write_bytes(damaged)
        with pytest.raises(DataError, match=r"d.pt: can't be read as .pt .*formats that can be read: safetensors"):
            load(str(tmp_path / "d.pt"))


def test_lists_of_positions_under_a_splits_name_are_left_out(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    content = {"images": torch.zeros(6, 3, 8, 8), "labels": torch.arange(6), "train": [0, 1, 2, 3], "test": [4, 5]}
    torch.save(content, tmp_path / "x.pt")
    assert len(load(str(tmp_path / "x.pt"))) == 6
    assert any("left out" in str(one.message) and "train" in str(one.message) for one in recwarn)
