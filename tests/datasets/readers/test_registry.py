"""The formats: each is a module, and an unreadable source lists them."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fmtool.datasets.data import load
from fmtool.datasets.readers.registry import READERS, SHORT, is_data, read_path
from fmtool.errors import DataError, FmtoolError


def test_every_reader_is_a_module_beside_the_table() -> None:
    folder = Path(__file__).resolve().parents[3] / "fmtool" / "datasets" / "readers"
    assert {file.stem for file in folder.glob("*.py")} - {"__init__", "registry"} == set(READERS)


@pytest.mark.parametrize("name", ["data.tar", "data.npz", "data.pt", "notes.txt"])
def test_an_unreadable_source_lists_what_can_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(FmtoolError) as refused:
        load(str(tmp_path / name))
    assert SHORT in str(refused.value) and str(refused.value).count("\n") == 0


def test_the_first_reader_that_recognises_a_path_reads_it(tmp_path: Path) -> None:
    """Also below folders that hold nothing else; the source names its format."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for name, axes in (("images-idx3", (2, 4, 5)), ("labels-idx1", (2,))):
        content = struct.pack(f">BBBB{len(axes)}I", 0, 0, 8, len(axes), *axes) + bytes(math.prod(axes))
        (inner / f"train-{name}-ubyte").write_bytes(content)
    for path in (inner, tmp_path / "outer", tmp_path):
        source = read_path(str(path))
        assert source.format == "idx" and source.splits["train"].images.shape == (2, 4, 5)
    (tmp_path / "outer" / "beside").mkdir()
    with pytest.raises(DataError):
        read_path(str(tmp_path / "outer"))  # now of two folders, neither of which is a class of pictures


def test_which_paths_are_data(tmp_path: Path) -> None:
    save_file({"images": torch.zeros(1, 1, 2, 2), "labels": torch.zeros(1).long()}, tmp_path / "data.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "data.npz").touch()
    named = {
        name: is_data(tmp_path / name) for name in ("data.safetensors", "model.safetensors", "data.npz", "none.npz")
    }
    assert named == {"data.safetensors": True, "model.safetensors": False, "data.npz": True, "none.npz": False}
    assert is_data(tmp_path)


def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("fmtool.datasets.readers.numpy_files.read", read)
    (tmp_path / "data.npz").touch()
    with pytest.raises(DataError, match=r"data\.npz: doesn't fit into memory$"):
        read_path(str(tmp_path / "data.npz"))
