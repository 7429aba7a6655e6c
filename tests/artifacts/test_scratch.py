"""Rows in temporary files, and rows of which some are replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fmtool.artifacts import output, scratch
from fmtool.artifacts.output import temporary_folder
from fmtool.artifacts.scratch import Overlay, Scratch, changeable, fresh_rows
from fmtool.datasets.rows import take
from fmtool.errors import ArtifactError


@pytest.fixture(params=[0, 2**20], ids=["file", "memory"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many bytes of rows stay in memory."""
    monkeypatch.setattr(scratch, "IN_MEMORY", request.param)
    return int(request.param)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rows_are_what_was_written(
    room: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    rows = fresh_rows((6, 2, 3, 5), dtype)
    assert isinstance(rows, torch.Tensor) == (room > 0) and list(tmp_path.iterdir()) == []  # the file has no name
    given = torch.randint(0, 256, (6, 2, 3, 5)).to(dtype)
    rows[torch.tensor([4, 0, 3])] = given[[4, 0, 3]]
    rows[5] = given[5].flip(-1).contiguous().flip(-1)  # a view with strides
    given[[1, 2]] = 0
    for some in (3, slice(1, 5), slice(None), torch.tensor([5, 0, 5]), torch.tensor(2)):
        assert torch.equal(rows[some], given[some]) and rows[some].dtype == dtype


def test_some_rows_are_replaced_and_the_others_stay(room: int) -> None:
    base = torch.rand(7, 1, 2, 2)
    rows = Overlay(take(base, torch.arange(7)))
    new = torch.rand(3, 1, 2, 2)
    rows[torch.tensor([6, 1, 2])] = new
    expected = base.clone()
    expected[[6, 1, 2]] = new
    for some in (
        slice(0, 7, 2),
        slice(1, 3),
        torch.tensor([1, 6]),
        torch.tensor([0, 6, 0]),
        torch.tensor(4),
        6,
        expected[:, 0, 0, 0] > 0.5,
    ):
        assert torch.equal(rows[some], expected[some])
    assert len(rows) == 7 and rows.shape == (7, 1, 2, 2)
    copied = changeable(base)
    assert isinstance(copied, torch.Tensor)
    copied[0] = 9
    assert float(base.max()) < 9


def test_no_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    rows = Scratch.fresh((2, 3), torch.float32)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        ArtifactError, match=r"a temporary file in .* can't be written: No space left .* folder in TMPDIR$"
    ):
        rows[0] = torch.zeros(3)


def test_large_files_lie_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_folder() == str(tmp_path)
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(output, "LARGE_FILES", str(tmp_path / "none"))
    assert temporary_folder() != str(tmp_path / "none")
