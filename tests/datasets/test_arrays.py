"""Arrays as images: layouts, number types and ranges; names of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmtool.datasets.arrays import as_images, parse_range
from fmtool.datasets.data import load
from fmtool.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 7)).astype(np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((2, 3, 8, 7), None, (2, 3, 8, 7)),
        ((2, 8, 7, 3), None, (2, 3, 8, 7)),
        ((2, 8, 7, 1), None, (2, 1, 8, 7)),
        ((2, 8, 7), None, (2, 1, 8, 7)),
        ((2, 3, 7), None, (2, 1, 3, 7)),
        ((2, 3, 8, 3), "nchw", (2, 3, 8, 3)),
        ((2, 3, 8, 3), "nhwc", (2, 3, 3, 8)),
        ((2, 5, 8, 8), "nchw", (2, 5, 8, 8)),
        ((2, 8, 7), "nhw", (2, 1, 8, 7)),
    ],
)
def test_the_only_reading_of_a_shape_is_taken(
    shape: tuple[int, ...], layout: str | None, expected: tuple[int, ...]
) -> None:
    values = torch.arange(int(np.prod(shape)), dtype=torch.uint8).reshape(shape)
    images = as_images(values, layout, None, "x")
    assert tuple(images.shape) == expected
    if len(shape) == 4 and expected != shape:
        assert torch.equal(images, values.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 1, 8, 3), (2, 4, 8, 8), (2, 1, 1, 1)])
def test_shapes_with_two_readings_or_none_are_asked_for(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"x: images are \[2, .*\]: expected --layout nchw or nhwc"):
        as_images(torch.zeros(shape, dtype=torch.uint8), None, None, "x")


@pytest.mark.parametrize(("shape", "layout"), [((2, 8, 7), "nchw"), ((2, 3, 8, 7), "nhw"), ((2, 3, 8, 7), "hwc")])
def test_layouts_that_do_not_fit_are_errors(shape: tuple[int, ...], layout: str) -> None:
    with pytest.raises(DataError, match=f"--layout {layout} doesn't fit"):
        as_images(torch.zeros(shape), layout, None, "x")


@pytest.mark.parametrize(
    ("values", "pixel_range", "expected"),
    [
        (np.array([0.0, 127.5, 255.0]), (0, 255), [0.0, 0.5, 1.0]),
        (np.array([-1.0, 0.0, 1.0]), (-1, 1), [0.0, 0.5, 1.0]),
        (np.array([0, 32768, 65535], np.uint16), (0, 65535), [0.0, 32768 / 65535, 1.0]),
        (np.array([0, 51, 255], np.int64), (0, 255), [0.0, 0.2, 1.0]),
        (np.array([0, 1, 1], np.float16), None, [0.0, 1.0, 1.0]),
        (np.array([0.0, 0.25, 1.0], ">f8"), None, [0.0, 0.25, 1.0]),
        (np.array([-1, 0, 1], np.int8), (-1, 1), [0.0, 0.5, 1.0]),
    ],
)
def test_numbers_become_floats_from_0_to_1(
    values: np.ndarray[Any, Any], pixel_range: tuple[float, float] | None, expected: list[float]
) -> None:
    images = as_images(values.reshape(1, 1, 1, 3)[:, :, :, [0, 1, 2, 2]], None, pixel_range, "x")
    assert images.dtype == torch.float32 and images.flatten()[:3].tolist() == pytest.approx(expected, abs=1e-7)


def test_bytes_stay_bytes_and_booleans_are_black_and_white() -> None:
    for pixel_range in (None, (0.0, 255.0)):
        assert torch.equal(as_images(PIXELS, None, pixel_range, "x"), torch.from_numpy(PIXELS))
    assert as_images(np.array([[[[True, False]]]]), None, None, "x").flatten().tolist() == [255, 0]
    eight = as_images((torch.from_numpy(PIXELS) / 255).to(torch.float8_e4m3fn), None, None, "x")
    assert eight.dtype == torch.float32 and float((eight - torch.from_numpy(PIXELS) / 255).abs().max()) < 0.04


@pytest.mark.parametrize(
    ("values", "pixel_range", "message"),
    [
        (
            np.array([0.0, 200.0]),
            None,
            r"pixels range from 0 to 200, expected \[0, 1\]: pass --pixel-range 0,255 if",
        ),
        (
            np.array([-0.9, 0.7]),
            None,
            r"pixels range from -0.9 to 0.7, expected \[0, 1\]: pass --pixel-range -1,1 if",
        ),
        (np.array([-3.0, 7.0]), None, r"pixels range from -3 to 7, expected \[0, 1\]$"),
        (np.array([0.0, np.nan]), None, r"pixels range from nan to nan, expected \[0, 1\]$"),
        (np.array([0.0, 300.0]), (0, 255), r"pixels range from 0 to 300, beyond --pixel-range 0,255"),
        (
            np.array([0, 255], np.int64),
            None,
            r"images are int64 from 0 to 255: expected uint8, or --pixel-range, like 0,255",
        ),
        (
            np.array([0, 1], np.int64),
            None,
            r"images are int64 from 0 to 1: expected uint8, or --pixel-range, like 0,1,",
        ),
        (
            np.array([0, 999], np.uint16),
            None,
            r"images are uint16 from 0 to 999: expected uint8, or --pixel-range, like 0,65535",
        ),
        (np.array([0.0, 1.0]), (1, 1), r"--pixel-range 1,1: expected two numbers, the lower one first"),
        (np.array([0.0, 1.0]), (0, float("inf")), r"--pixel-range 0,inf: expected two numbers"),
        (np.array(["a", "b"]), None, r"holds images of type <U1, expected numbers"),
        (np.array([1j, 0]), None, r"holds images of type complex128"),
    ],
)
def test_numbers_that_would_have_to_be_guessed_are_errors(
    values: np.ndarray[Any, Any], pixel_range: tuple[float, float] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        as_images(values.reshape(1, 1, 1, 2), None, pixel_range, "x")


@pytest.mark.parametrize("white", [1, 16])
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_bytes_whose_white_is_not_255_are_asked_for(white: int, suffix: str, tmp_path: Path) -> None:
    """They would be almost black."""
    path, images = str(tmp_path / f"d{suffix}"), (PIXELS > 127).astype(np.uint8) * white
    named = {"images": images, "labels": LABELS}
    np.savez(path, **named) if suffix == ".npz" else torch.save(
        {k: torch.from_numpy(v) for k, v in named.items()}, path
    )
    told = f"images are uint8 from 0 to {white}: expected --pixel-range 0,{white} if {white} is white, or 0,255 if all"
    with pytest.raises(DataError, match=told):
        load(path)
    assert torch.equal(load(path, pixel_range=(0, white)).images, torch.from_numpy(images) / white)
    assert np.array_equal(load(path, pixel_range=(0, 255)).images, images)


def test_dark_images_among_bright_ones_are_taken_as_they_are(tmp_path: Path) -> None:
    images = PIXELS.copy()
    images[:5] = 1
    np.savez(tmp_path / "d.npz", images=images, labels=LABELS)
    assert load(str(tmp_path / "d.npz"), rows=(0, 5)).images.unique().tolist() == [1]
    for dark in (np.zeros_like(PIXELS), PIXELS > 255):
        np.savez(tmp_path / "d.npz", images=dark, labels=LABELS)
        assert load(str(tmp_path / "d.npz")).images.unique().tolist() == [0]


def test_pixel_ranges_are_read_from_text() -> None:
    assert parse_range("0,255") == (0, 255) and parse_range("-1,1") == (-1, 1)
    for text in ("", "255", "0,1,2", "a,b"):
        with pytest.raises(DataError, match=r"--pixel-range .*: expected two numbers with a comma"):
            parse_range(text)


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "splits"),
    [
        ({"images": PIXELS, "labels": LABELS}, {"whole": 6}),
        ({"x": PIXELS, "y": LABELS}, {"whole": 6}),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:2], "y_test": LABELS[:2]}, {"train": 6, "test": 2}),
        ({"train_images": PIXELS, "train_labels": LABELS[:, None], "val_images": PIXELS[:3], "val_labels": LABELS[:3, None],
          "test_images": PIXELS[:2], "test_labels": LABELS[:2, None]}, {"train": 6, "val": 3, "test": 2}),
        ({"data": PIXELS, "targets": LABELS}, {"whole": 6}),
    ],
)  # fmt: skip
def test_usual_names_in_npz(arrays: dict[str, Any], splits: dict[str, int], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    found = load(str(tmp_path / "d.npz"), default="test")
    n = splits.get("test", 6)
    assert dict(found.splits) == splits and np.array_equal(found.images, PIXELS[:n])
    assert found.labels.tolist() == LABELS[:n].tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, r"has no tensor labels, expected images \(n,c,h,w\) and labels \(n\); it holds images"),
        ({"foo": PIXELS, "labels": LABELS}, "has no tensor images, .*it holds foo, labels"),
        ({"x": PIXELS, "images": PIXELS, "y": LABELS}, "can't tell which of x and images to take"),
        ({"images": PIXELS, "labels": LABELS[:4]}, "holds 6 images and 4 labels"),
        ({"x": PIXELS, "y": LABELS, "x_test": PIXELS, "y_test": LABELS}, "holds x beside splits"),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS}, "has no tensor labels"),
    ],
)
def test_arrays_that_do_not_belong_together(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "d.npz"))


def test_other_arrays_are_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS, seeds=LABELS, mean=np.zeros(3))
    found = load(str(tmp_path / "d.npz"))
    assert found.left_out == ("2 arrays that are neither images nor labels (seeds, mean)",)


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 2, 2, 1)])
def test_the_callers_tensor_stays_as_it_is(shape: tuple[int, ...]) -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0]).reshape(shape)
    before = values.clone()
    assert as_images(values, None, (-1, 1), "x").flatten().tolist() == [0, 0.5, 0.75, 1]
    assert torch.equal(values, before)
