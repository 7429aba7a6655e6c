"""Images as rows: keys, seeds, selection, and conversion of channels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import pixel_key
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fmtool.datasets.data import load
from fmtool.datasets.rows import (
    RowView,
    in_parts,
    keys_and_digest,
    luma,
    parse_rows,
    row_keys,
    row_seed,
    spread,
    take,
    to_float,
    with_channels,
)
from fmtool.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 7)).astype(np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


def test_rows_of_a_split_keep_their_index(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    every, some = load(str(tmp_path / "d.npz")), load(str(tmp_path / "d.npz"), rows=(2, 5))
    assert some.index.tolist() == [2, 3, 4] and torch.equal(some.key, every.key[2:5]) and some.rows == (2, 5)
    assert torch.equal(some.images, every.images[2:5]) and load(str(tmp_path / "d.npz"), rows=(4, None)).rows == (4, 6)
    assert load(str(tmp_path / "d.npz"), rows=(2, 5), limit=2).index.tolist() == [2, 4]
    for rows in ((5, 5), (0, 7), (-1, 3)):
        with pytest.raises(DataError, match=r"d.npz: --rows .*, expected rows of 0:6"):
            load(str(tmp_path / "d.npz"), rows=rows)
    with pytest.raises(DataError, match="--rows applies to one split"):
        load("digits:all", rows=(0, 5))


def test_rows_are_read_from_text() -> None:
    assert parse_rows("40000:50000") == (40000, 50000) and parse_rows("3:") == (3, None) and parse_rows(":5") == (0, 5)
    for text in ("5", "a:b", "1:2:3", ""):
        with pytest.raises(DataError, match=r"--rows .*: expected FIRST:END"):
            parse_rows(text)


def test_luma_is_that_of_pillow() -> None:
    images = torch.from_numpy(PIXELS)
    expected = [np.array(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in PIXELS]
    assert np.array_equal(luma(images)[:, 0].numpy(), np.stack(expected))
    assert float((luma(images / 255)[:, 0] * 255 - torch.from_numpy(np.stack(expected))).abs().max()) < 0.51


@pytest.mark.parametrize(
    "grey", [torch.arange(256, dtype=torch.uint8), torch.rand(9, generator=torch.Generator().manual_seed(0))]
)
def test_grey_pixels_keep_their_value_in_both_directions(grey: torch.Tensor) -> None:
    grey = grey.reshape(1, 1, 1, -1)
    colour = with_channels(grey, 3)
    assert torch.equal(colour, grey.repeat(1, 3, 1, 1)) and torch.equal(with_channels(colour, 1), grey)
    assert with_channels(grey, 1) is grey
    with pytest.raises(DataError, match="images have 1 channels, the model takes 4"):
        with_channels(grey, 4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=40), limit=st.integers(1, 45))
def test_limit_is_spread_evenly_over_the_classes(labels: list[int], limit: int) -> None:
    rows = spread(torch.tensor(labels), limit).tolist()
    assert len(rows) == min(limit, len(labels)) and rows == sorted(set(rows))
    taken = [sum(labels[row] == k for row in rows) for k in range(6)]
    for k in range(6):
        places = [row for row, label in enumerate(labels) if label == k]
        assert [row for row in rows if labels[row] == k] == places[: taken[k]]  # the first of each class first
        if taken[k] < len(places):  # a class that has more to give is behind none by more than one
            assert taken[k] >= max(taken) - 1


def test_limit_below_the_number_of_classes_is_spread_over_them_and_grows_by_adding_rows() -> None:
    """The order of labels may mean something: ImageNet's first 398 classes are animals."""
    labels = torch.arange(1000).repeat(2)
    rows = spread(labels, 100)
    assert len(rows) == 100 and rows[0] == 0 and set(rows.diff().tolist()) <= {8, 16} and rows[-1] >= 984
    more = spread(labels, 1400)
    assert torch.equal(more[:1000], torch.arange(1000)) and set(rows.tolist()) <= set(more.tolist())
    assert more[1000:].diff().max() <= 4  # the second round too


def test_keys_are_hashes_of_the_pixels() -> None:
    digits = load("digits", limit=5)
    assert digits.key.tolist() == [pixel_key(image) for image in digits.images.numpy()]
    whole = (digits.images * 255).to(torch.uint8)
    assert row_keys(whole).tolist() == [pixel_key(image) for image in whole.numpy()] != row_keys(whole.float()).tolist()
    assert row_keys(digits.images.flip(0)).tolist() == digits.key.flip(0).tolist()
    strided = digits.images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert torch.equal(row_keys(strided), digits.key) and digits.key.dtype == torch.int64


def test_several_draws_for_an_image_differ_and_leave_the_first_as_it_was() -> None:
    """The seed without a trial is what files of earlier versions were made from."""
    assert row_seed(0, -5, 7) == 8370682566865628288
    assert len({row_seed(0, -5, 7, *trial) for trial in ((), (0,), (1,), ("mask", 0), ("mask", 1))}) == 5


def test_pixels_are_bytes_over_255_or_as_they_are() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_float(torch.tensor([0.25], dtype=torch.float64)).dtype == torch.float32


def test_keys_and_digest_of_many_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.rand(700, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(700)
    told: list[tuple[str, int, int]] = []
    keys, digest = keys_and_digest(images, labels, lambda *said: told.append(said))
    assert torch.equal(keys, row_keys(images))
    assert digest == hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert told == [("reading images", n, 700) for n in (256, 512, 700)]
    assert [(start, len(some)) for start, some in in_parts(images)] == [(0, 256), (256, 256), (512, 188)]


def test_a_view_reads_what_it_is_asked_for() -> None:
    """Rows of rows, one row and a slice, of images that need not be a tensor."""
    images = torch.from_numpy(PIXELS)
    view = RowView(images, torch.tensor([4, 0, 2]), lambda some: 255 - some, 3)
    assert (len(view), view.shape, view.dtype) == (3, (3, 3, 8, 7), torch.uint8)
    assert torch.equal(view[1], 255 - images[0]) and torch.equal(view[1:], 255 - images[[0, 2]])
    again = take(view, torch.tensor([2, 0]))
    assert isinstance(again, RowView) and torch.equal(again[:], 255 - images[[2, 4]])
    assert torch.equal(take(images, torch.tensor([1])), images[1:2])
    grey = with_channels(view, 1)
    assert grey.shape == (3, 1, 8, 7) and torch.equal(grey[:], luma(255 - images[[4, 0, 2]]))


class OnAGpu(torch.Tensor):
    """Stands for a tensor on a GPU, which can't index one on the CPU before it is brought there."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function is not torch.Tensor.cpu:
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        with torch._C.DisableTorchFunctionSubclass():
            return arguments[0].as_subclass(torch.Tensor)


def test_rows_of_a_view_may_be_numbered_on_a_gpu() -> None:
    images = torch.from_numpy(PIXELS)
    view = RowView(images, torch.tensor([4, 0, 2]), lambda some: some, 3)
    assert torch.equal(view[torch.tensor([2, 0]).as_subclass(OnAGpu)], images[[2, 4]])
