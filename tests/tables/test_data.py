"""The table of images and labels: counts of every class, splits, and the range of pixels over all parts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fmtool.datasets.data import load
from fmtool.tables.data import data_table


def test_classes_are_counted_and_the_source_is_described() -> None:
    data = load("digits:test")
    told: list[tuple[str, int, int]] = []
    table = data_table(data, lambda *said: told.append(said))
    assert table.rows == [[str(k), int((data.labels == k).sum())] for k in range(10)]
    assert table.notes == [
        "format: builtin; splits: train 1348, test 449; shown: test, 449 images",
        "images 1x8x8 float32, pixels 0 to 1",
    ]
    assert told == [("looking at pixels", 256, 449), ("looking at pixels", 449, 449)]


def test_nameless_classes_are_numbers_and_what_was_left_out_is_told() -> None:
    """Also classes without an image, below the largest label."""
    few = load("digits:test", limit=4)
    assert data_table(few).rows == [[str(k), int(k in (0, 2, 4, 8))] for k in range(10)]
    bytes_ = torch.full((4, 1, 8, 8), 7, dtype=torch.uint8)
    bytes_[3, 0, 0, 0] = 250
    data = dataclasses.replace(
        few, images=bytes_, labels=torch.tensor([0, 3, 3, 0]), class_names=(), left_out=("2 arrays", "1 file")
    )
    table = data_table(data)
    assert table.rows == [["0", 2], ["1", 0], ["2", 0], ["3", 2]]
    assert table.notes[1:] == [
        "images 1x8x8 uint8, pixels 7 to 250", "the source names no classes", "left out: 2 arrays", "left out: 1 file",
    ]  # fmt: skip


@pytest.mark.parametrize("row", [0, 300, 448])
def test_a_pixel_in_any_part_counts(row: int) -> None:
    data = load("digits:test")
    images = data.pixels().clone() * 0.5
    images[row, 0, 3, 3] = 0.75
    assert "pixels 0 to 0.75" in data_table(dataclasses.replace(data, images=images)).notes[1]
