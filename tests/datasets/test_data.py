"""Splits, limits, ranges of pixels and labels, digests; unknown names. Formats are in readers/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixel_key
from PIL import Image
from safetensors.torch import save_file

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage
from fmtool.datasets import registry
from fmtool.datasets.data import load, some_of
from fmtool.datasets.rows import spread
from fmtool.errors import DataError, FmtoolWarning
from fmtool.stages.inputs import data_input

# Digits --------------------------------------------------------------------------------------------------------------


def test_split_without_a_suffix_is_the_callers_default() -> None:
    assert load("digits").split == "test"
    assert load("digits", default="train").split == "train"
    assert load("digits").digest == load("digits:test").digest != load("digits:train").digest


def test_all_is_test_then_train_each_with_its_own_index() -> None:
    both, test, train = load("digits:all"), load("digits:test"), load("digits:train")
    assert both.split == "test+train" and len(both) == 1797
    for name in ("images", "labels", "index", "key"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(test, name), getattr(train, name)]))


# Limits --------------------------------------------------------------------------------------------------------------


def test_limited_images_keep_key_and_index() -> None:
    few, every = load("digits:test", limit=25), load("digits:test")
    assert few.labels.bincount().tolist() == [3, 2] * 5
    assert torch.equal(few.images, every.images[few.index]) and torch.equal(few.key, every.key[few.index])
    assert not torch.equal(few.index, torch.arange(25))
    again = some_of(every, spread(every.labels, 25))
    assert torch.equal(again.index, few.index) and torch.equal(again.key, few.key)
    assert len(load("digits:test", limit=10_000)) == 449
    with pytest.raises(DataError, match="--limit is 0, expected at least 1"):
        load("digits", limit=0)


# Keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_any_float_is_float32_before_it_is_hashed(dtype: torch.dtype, tmp_path: Path) -> None:
    images = load("digits", limit=5).images.to(dtype)
    save_file({"images": images, "labels": torch.arange(5)}, tmp_path / "data.safetensors")
    found = load(str(tmp_path / "data.safetensors"))
    assert found.images.dtype == torch.float32 and torch.equal(found.images, images.float())
    assert found.key.tolist() == [pixel_key(image) for image in images.float().numpy()]


# Safetensors ---------------------------------------------------------------------------------------------------------


def _file(path: Path, images: torch.Tensor, labels: torch.Tensor, meta: dict[str, str] | None = None) -> str:
    save_file({"images": images, "labels": labels}, path, meta)
    return str(path)


@pytest.mark.parametrize(("value", "fine"), [(1.0, True), (1 + 5e-7, True), (1 + 1e-5, False), (-5e-7, True), (-1e-5, False),
                                             (float("nan"), False), (float("inf"), False)])  # fmt: skip
def test_pixels_beyond_rounding_are_refused_and_within_it_clamped(value: float, fine: bool, tmp_path: Path) -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    images[1, 0, 1, 1] = value
    source = _file(tmp_path / "a.safetensors", images, torch.zeros(2).long())
    if fine:
        found = load(source).images
        assert float(found.min()) >= 0 and float(found.max()) <= 1
    else:
        with pytest.raises(DataError, match=r"pixels range from .*, expected \[0, 1\]"):
            load(source)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"labels range from 0 to 3, expected 0 to 2"),
        (torch.tensor([-1, 0]), r"labels range from -1 to 0, expected 0 to 2"),
        (torch.tensor([0.0, 1.0]), r"labels are float32 \[2\], expected 2 integers, one-hot rows or names"),
        (torch.tensor([[0, 2], [1, 0]]), r"labels are int64 \[2, 2\], .*: these rows are not one-hot"),
        (torch.tensor([0]), r"holds 2 images and 1 labels, expected as many of both"),
    ],
)
def test_labels_out_of_range_or_shape_are_refused(labels: torch.Tensor, message: str, tmp_path: Path) -> None:
    source = _file(tmp_path / "a.safetensors", torch.zeros(2, 1, 2, 2), labels, {"class_names": '["x", "y", "z"]'})
    with pytest.raises(DataError, match=message):
        load(source)


def test_tensors_are_squeezed_as_files_are(tmp_path: Path) -> None:
    """torchvision's antialiased resize and Pillow's differ by a grey level or two of rounding."""
    digits = load("digits", limit=4)
    pixels = (digits.images * 255).round().to(torch.uint8).repeat(1, 3, 3, 2)
    source = _file(tmp_path / "a.safetensors", pixels, digits.labels)
    found = load(source, size=7)
    assert found.images.shape == (4, 3, 7, 7) and found.images.dtype == torch.uint8
    for image, before in zip(found.images, pixels, strict=True):
        pillow = Image.fromarray(before.permute(1, 2, 0).numpy()).resize((7, 7), Image.Resampling.BILINEAR)
        difference = image.permute(1, 2, 0).numpy().astype(int) - np.array(pillow)
        assert abs(difference).max() <= 2
    few = load(source, size=7, limit=2)
    assert torch.equal(few.key, found.key[few.index])


def test_real_cifar_files(shared_data: Path) -> None:
    test, train = (load(str(shared_data / f"cifar10-{name}.safetensors")) for name in ("test-1017", "train-5085"))
    assert test.images.shape == (1017, 3, 32, 32) and train.images.shape == (5085, 3, 32, 32)
    assert test.class_names[:3] == ("airplane", "automobile", "bird") and test.class_names == train.class_names
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # as everybody's CIFAR-10 test set begins
    assert len(set(test.key.tolist())) == 1017 and not set(test.key.tolist()) & set(train.key.tolist())


# Unknown sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "digit",
            r"unknown data set 'digit' \(did you mean 'digits'\?\): expected one of caltech101, .*, or a path: safetensors, ",
        ),
        ("CIFAR-10", r"did you mean 'cifar10'"),
        ("Imagenet", r"did you mean 'imagenette'"),
        ("zzz", r"unknown data set 'zzz': expected one of"),
        ("digits:trian", r"unknown split 'trian' \(did you mean 'train'\?\).* in --data digits:trian"),
        ("./digits", r"./digits: no such file or folder"),
        ("data.zip", r"data.zip: no such file or folder"),
        ("", r"unknown data set ''"),
    ],
)
def test_unknown_source_is_told_with_the_nearest_name(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(spec)


def test_the_help_names_a_few_data_sets_and_how_many_there_are() -> None:
    """The others are listed by the error for an unknown name."""
    from fmtool.cli.options import DATA_HELP

    named = DATA_HELP.partition("such as ")[2].partition(" (")[0].replace(" or ", ", ").split(", ")
    assert len(named) == 3 and set(named) < set(registry.DATASETS)
    assert f"lists all {len(registry.DATASETS)})" in DATA_HELP
    assert all(source.summary for source in registry.DATASETS.values())


# Names and paths -----------------------------------------------------------------------------------------------------


def test_a_folder_with_the_name_of_a_data_set_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "digits" / "a" / "one.png")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        FmtoolWarning, match=r"^--data digits is the data set of that name; the file or folder here is \./digits$"
    ):
        assert len(load("digits:train")) == 1348
    own = load("./digits")
    assert len(own) == 1 and own.name == "./digits"
    assert load(str(tmp_path / "digits")).digest == own.digest


def test_only_the_split_that_is_read_must_have_labels_in_range(tmp_path: Path) -> None:
    """Test sets are published without labels."""
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    path = tmp_path / "some.npz"
    np.savez(path, x_train=images, y_train=np.array([0, 1, 0, 1]), x_test=images, y_test=np.full(4, -1))
    assert len(load(f"{path}:train")) == 4
    with pytest.raises(DataError, match="test has no labels, all are -1: expected labelled images"):
        load(f"{path}:test")


def test_labels_that_number_no_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 3), dtype=np.uint8), labels=np.array([0, 1_500_000_000]))
    with pytest.raises(DataError, match="labels range from 0 to 1500000000, expected 0 to 1048575"):
        load(str(path))


def test_images_that_two_splits_share_are_refused_in_all_of_them(tmp_path: Path) -> None:
    """A copy of val that stands for test, say: later stages tell images apart by content and place."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    path, labels = tmp_path / "some.npz", np.array([0, 1, 0, 1])
    np.savez(
        path, x_train=images[::-1], y_train=labels, x_test=images, y_test=labels, x_val=images[:3], y_val=labels[:3]
    )
    assert len(load(f"{path}:val")) == 3
    with pytest.raises(
        DataError, match=r"3 images are at the same place in two of test, \w+, \w+: name one split, like .*:test$"
    ):
        load(f"{path}:all")


def test_images_almost_without_light_are_told(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 8, 8, 3), dtype=np.float32)
    np.savez(tmp_path / "some.npz", images=images, labels=np.array([0, 1, 0, 1]))
    with pytest.warns(FmtoolWarning, match=r"no pixel is brighter than 0.0039, where 1 is white"):
        load(str(tmp_path / "some.npz"), pixel_range=(0, 255))


@pytest.mark.parametrize(
    ("size", "told"),
    [(20_000, "is more than the .* pixels of an image"), (1_000, "1797 images can't be resized to 1000x1000")],
)
def test_images_of_a_size_that_fits_nowhere_are_one_line(size: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("torchvision.transforms.v2.functional.resize", full)
    with pytest.raises(DataError, match=told):
        load("digits:all", size=size)


def test_sparse_images_and_labels_are_as_good_as_dense_ones(tmp_path: Path) -> None:
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    torch.save({"images": images, "labels": labels}, tmp_path / "dense.pt")
    torch.save({"images": images.to_sparse(), "labels": labels.to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"images": images, "labels": torch.eye(3)[labels].to_sparse()}, tmp_path / "one-hot.pt")
    expected = load(str(tmp_path / "dense.pt"), limit=3)
    for name in ("sparse", "one-hot"):
        assert load(str(tmp_path / f"{name}.pt"), limit=3).digest == expected.digest


def test_images_that_do_not_fit_into_memory_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"images": torch.rand(6, 1, 4, 4), "labels": torch.arange(6)}, tmp_path / "large.pt")

    def full(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 21.0 GiB")

    monkeypatch.setattr("fmtool.datasets.data.as_images", full)
    with pytest.raises(DataError, match=r"6 images don't fit into memory: expected fewer, see --limit and --rows$"):
        load(str(tmp_path / "large.pt"))


def test_a_path_and_numpys_numbers_are_taken(tmp_path: Path) -> None:
    pixels = np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 8, 8, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(6) % 2)
    data = load(tmp_path / "x.npz", limit=np.int64(4), rows=(np.int64(1), np.int64(6)), size=np.int64(4))
    assert len(data) == 4 and data.images.shape[2:] == (4, 4)
    written = [
        Artifact("attack", {"n": number(4)}, {}, stage("attack", {"--steps": number(3)}, number(1), [data_input(data)]))
        for number in (int, np.int64)
    ]
    assert written[0].digest == written[1].digest


@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_that_are_almost_black_are_told(bits: int, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Masks of 0 and 1, or 12 bits of 16, as arrays of them are."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(2):
            pixels = np.full((8, 8), 1 + number, np.uint8) if bits == 8 else np.full((8, 8), 4000 + number, np.uint16)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    load(str(tmp_path))
    (told,) = [str(one.message) for one in recwarn if "brighter" in str(one.message)]
    assert "no pixel of the first 4 pictures is brighter than 0.0" in told and told.endswith("takes --pixel-range")
    Image.fromarray(np.full((8, 8), 255 if bits == 8 else 65535, np.uint8 if bits == 8 else np.uint16)).save(
        tmp_path / "b" / "2.png"
    )
    recwarn.clear()
    load(str(tmp_path))
    assert not [one for one in recwarn if "brighter" in str(one.message)]
