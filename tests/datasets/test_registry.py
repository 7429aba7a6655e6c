"""The data sets and formats of the tables are those of the guide and of the error for a source that none of them reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmtool.datasets.data import load
from fmtool.datasets.readers.registry import READERS, SHORT
from fmtool.datasets.registry import DATASETS
from fmtool.errors import FmtoolError

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "README.md"


def test_the_guide_names_every_data_set() -> None:
    text = " ".join(GUIDE.read_text().split())
    assert all(f"`{name}`" in text for name in DATASETS) and all(one.summary for one in DATASETS.values())


def test_every_reader_is_a_module_beside_the_table() -> None:
    folder = Path(__file__).resolve().parents[2] / "fmtool" / "datasets" / "readers"
    assert {file.stem for file in folder.glob("*.py")} - {"__init__", "registry"} == set(READERS)


@pytest.mark.parametrize("name", ["data.tar", "data.npz", "data.pt", "notes.txt"])
def test_an_unreadable_source_lists_what_can_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(FmtoolError) as refused:
        load(str(tmp_path / name))
    assert SHORT in str(refused.value) and str(refused.value).count("\n") == 0
