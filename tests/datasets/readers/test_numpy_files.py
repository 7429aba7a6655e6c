""".npy with its labels beside it, folders of such arrays, and .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmtool.datasets.data import load
from fmtool.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(20) % 4


@pytest.fixture
def corrupted(tmp_path: Path) -> Path:
    """A small CIFAR-10-C: severities one after the other, the same labels for each."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", PIXELS)
    np.save(folder / "labels.npy", LABELS)
    return folder


def test_one_array_beside_its_labels(corrupted: Path) -> None:
    for source in (corrupted, corrupted / "fog.npy"):
        found = load(str(source))
        assert (
            np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), PIXELS)
            and found.labels.tolist() == LABELS.tolist()
        )
        assert found.split == "whole" and found.class_names == ()


def test_rows_take_a_severity(corrupted: Path) -> None:
    found = load(str(corrupted / "fog.npy"), rows=(12, 16))
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), PIXELS[12:16]) and found.index.tolist() == [
        12,
        13,
        14,
        15,
    ]
    limited = load(str(corrupted / "fog.npy"), limit=4)
    assert np.array_equal(limited.images.permute(0, 2, 3, 1).numpy(), PIXELS[:4])


def test_several_arrays_are_asked_about(corrupted: Path) -> None:
    np.save(corrupted / "blur.npy", PIXELS)
    with pytest.raises(
        DataError, match=r"holds 2 arrays of images: expected one of them, such as .*CIFAR-10-C/blur.npy"
    ):
        load(str(corrupted))
    assert len(load(str(corrupted / "blur.npy"))) == 20


def test_labels_of_another_length_or_none_are_told(corrupted: Path) -> None:
    np.save(corrupted / "labels.npy", LABELS[:7])
    with pytest.raises(DataError, match=r"holds 20 images and labels.npy 7 labels"):
        load(str(corrupted))
    (corrupted / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"fog.npy: has no labels: expected fog_labels.npy or labels.npy beside it"):
        load(str(corrupted / "fog.npy"))
    with pytest.raises(DataError, match=r"holds fog.npy, expected images and labels.npy"):
        load(str(corrupted))


def test_a_folder_of_arrays_with_the_usual_names(tmp_path: Path) -> None:
    for split, n in (("train", 20), ("test", 5)):
        np.save(tmp_path / f"x_{split}.npy", PIXELS[:n] / np.float32(255))
        np.save(tmp_path / f"y_{split}.npy", LABELS[:n])
    assert load(str(tmp_path)).splits == {"train": 20, "test": 5} and load(str(tmp_path)).split == "test"
    assert load(str(tmp_path / "x_train.npy")).digest == load(f"{tmp_path}:train").digest


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([{}] * 20, dtype=object), allow_pickle=True)
    np.save(tmp_path / "fog.npy", PIXELS)
    with pytest.raises(DataError, match=r"labels.npy: can't be read as .npy: .*objects"):
        load(str(tmp_path))
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.array([{}] * 20, dtype=object))
    with pytest.raises(DataError, match=r"a.npz: can't be read as .npz, .*: Object arrays cannot be loaded"):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["a.npz", "fog.npy"])
def test_cut_and_foreign_files_are_told_with_the_formats_that_there_are(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    np.save(tmp_path / "fog.npy", PIXELS)
    np.save(tmp_path / "labels.npy", LABELS)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[:200], b"", b"nothing of the kind"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match="can't be read as"):
            load(str(tmp_path / name))


def test_arrays_beside_folders_of_pictures_are_refused(tmp_path: Path) -> None:
    """Either may be meant; the arrays alone were read, and the pictures not even counted."""
    (tmp_path / "cats").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "cats" / "1.png")
    np.save(tmp_path / "patches.npy", np.zeros((3, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int64))
    told = r"holds (patches|labels)\.npy and pictures such as cats/1\.png: name the file that is meant, or move one"
    with pytest.raises(DataError, match=told):
        load(str(tmp_path))
