"""The result of a reader: lengths, and that the format is no part of what a source is."""

from __future__ import annotations

from fmtool.datasets.source import Encoded, Source, Split


def test_a_split_has_as_many_rows_as_images() -> None:
    assert len(Split(Encoded(["a.png", "b.png"], str.encode), [0, 1])) == 2


def test_two_readings_of_the_same_are_equal_whatever_read_them() -> None:
    splits = {"train": Split((1, 2), (0, 1))}
    assert Source(splits, ("a", "b"), format="zips") == Source(splits, ("a", "b"), format="folders")
    assert Source(splits, ("a", "b")) != Source(splits, ("a", "c"))
