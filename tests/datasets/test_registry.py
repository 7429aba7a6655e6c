"""The data sets of the table are those of the guide and of the help."""

from __future__ import annotations

from pathlib import Path

from fmtool.datasets.registry import DATASETS

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "README.md"


def test_the_guide_names_every_data_set() -> None:
    text = " ".join(GUIDE.read_text().split())
    assert all(f"`{name}`" in text for name in DATASETS) and all(one.summary for one in DATASETS.values())
