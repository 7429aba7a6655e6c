"""Rows are joined by image, shards are known by their numbers, and values out of range are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fmtool.artifacts import rows
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError


def file(name: str, keys: list[int], indices: list[int], **header: Any) -> Artifact:
    return Artifact("masks", header, {"key": torch.tensor(keys), "index": torch.tensor(indices)}, name=name)


def test_images_are_joined_by_key_and_index_in_the_first_files_order() -> None:
    a = file("a", [7, 7, 5, 9], [0, 1, 2, 3])  # the same pixels twice, at two places
    b = file("b", [9, 7, 5, 7], [3, 1, 8, 0])
    assert [places.tolist() for places in rows.join([a, b])] == [[0, 1, 3], [3, 1, 0]]


def test_files_without_a_common_image_or_with_one_twice_are_refused() -> None:
    a = file("a", [1], [0])
    with pytest.raises(ArtifactError, match="a and b share no image"):
        rows.join([a, file("b", [1], [1])])
    with pytest.raises(ArtifactError, match=r"^a, b and c share no image$"):
        rows.join([a, file("b", [1], [0]), file("c", [2], [0]), file("d", [1], [0])])
    with pytest.raises(ArtifactError, match="b: contains an image twice"):
        rows.join([a, file("b", [1, 1], [0, 0])])


def test_a_shard_is_read_from_the_header_and_refused_where_the_whole_is_needed() -> None:
    shard = file("part", [1], [0], shard={"number": 2, "of": 3, "rows": 40})
    assert rows.shard_of(shard) == (2, 3, 40)
    with pytest.raises(ArtifactError, match="part: is shard 2 of 3: merge the shards with"):
        rows.check_no_shard(shard)
    rows.check_no_shard(file("whole", [1], [0]))


@pytest.mark.parametrize(
    "shard", [None, 3, {}, {"number": 0, "of": 3, "rows": 9}, {"number": 1, "of": 3, "rows": 2**41}]
)
def test_a_shard_that_cannot_be_is_refused(shard: Any) -> None:
    with pytest.raises(ArtifactError, match="its header describes an impossible shard"):
        rows.shard_of(file("part", [1], [0], shard=shard))


@pytest.mark.parametrize("values", [[-1], [0, 3], [2**40]])
def test_numbers_out_of_range_are_refused(values: list[int]) -> None:
    rows.check_range(torch.tensor([0, 2]), 3, "labels")
    rows.check_range(torch.tensor([], dtype=torch.int64), 3, "labels")
    with pytest.raises(ArtifactError, match=f"labels range from {min(values)} to {max(values)}, expected 0 to 2"):
        rows.check_range(torch.tensor(values), 3, "labels")


@pytest.mark.parametrize("value", [-1e-6, 1.001, float("nan"), float("inf")])
def test_entries_outside_the_unit_interval_are_refused(value: float) -> None:
    rows.check_unit(torch.tensor([0.0, 1.0]), "masks")
    with pytest.raises(ArtifactError, match="masks: entries lie outside"):
        rows.check_unit(torch.tensor([0.5, value]), "masks")
