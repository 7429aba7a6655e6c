"""Folders, zips and torchvision's downloads: classes and files in byte order, splits, sizes, damage; no network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, Sources, pixel_key
from PIL import Image

from fmtool.datasets.data import load
from fmtool.errors import DataError


def _picture(path: Path, number: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray[Any, Any]:
    """A PNG of random pixels; gives them as (3, h, w) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.array(image.convert("RGB")).transpose(2, 0, 1)


def test_folder_and_zip_with_splits(both: Sources, tmp_path: Path) -> None:
    pictures = {
        name: _picture(tmp_path / "set" / name, number)
        for number, name in enumerate([
            "train/b/2.png", "train/b/10.png", "train/a/x.png", "val/b/1.png", "val/B/1.png", "val/a/é.png", "val/a/z.PNG",
        ])
    }  # fmt: skip
    (tmp_path / "set" / "train" / "a" / "notes.txt").write_text("no image")
    for source in both(tmp_path / "set"):
        test, train, every = load(source), load(f"{source}:train"), load(f"{source}:all")
        assert test.class_names == train.class_names == ("B", "a", "b")  # in byte order, from both splits
        assert test.split == "test" and test.name == Path(source).name
        for data, names in (
            (test, ["val/B/1.png", "val/a/z.PNG", "val/a/é.png", "val/b/1.png"]),
            (train, ["train/a/x.png", "train/b/10.png", "train/b/2.png"]),
        ):
            assert data.images.dtype == torch.uint8
            assert np.array_equal(data.images.numpy(), np.stack([pictures[name] for name in names]))
            assert data.labels.tolist() == ["Bab".index(name.split("/")[1]) for name in names]
            assert data.index.tolist() == list(range(len(names)))
            assert data.key.tolist() == [pixel_key(pictures[name]) for name in names]
        assert torch.equal(every.images, torch.cat([test.images, train.images]))
        assert every.index.tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_folder_and_zip_give_the_same(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["cat/1.png", "dog/1.png", "dog/2.png"]):
        _picture(tmp_path / "set" / name, number)
    folder, archive = map(load, both(tmp_path / "set"))
    assert folder.digest == archive.digest and torch.equal(folder.key, archive.key)
    assert folder.class_names == archive.class_names == ("cat", "dog") and folder.labels.tolist() == [0, 1, 1]
    assert folder.split == "whole"


def test_test_and_val_are_both_test(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(["val/a/1.png", "test/a/1.png"]):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        found = load(source)
        assert found.split == "test" and found.index.tolist() == [0, 1]
        with pytest.raises(DataError, match="has no split 'train', only test"):
            load(f"{source}:train")


def test_source_without_splits_takes_no_suffix(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0)
    for source in both(tmp_path / "set"):
        for split in ("train", "test", "all"):
            with pytest.raises(DataError, match=rf"has no splits, expected it without ':{split}'"):
                load(f"{source}:{split}")


def test_path_may_hold_a_colon(tmp_path: Path) -> None:
    _picture(tmp_path / "set:train" / "a" / "1.png", 0)
    assert load(str(tmp_path / "set:train")).split == "whole"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_every_kind_have_three_channels(mode: str, tmp_path: Path) -> None:
    pixels = _picture(tmp_path / "set" / "a" / "1.png", 0, mode=mode)
    assert np.array_equal(load(str(tmp_path / "set")).images[0].numpy(), pixels)


def test_mixed_sizes_need_a_size_and_are_squeezed(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0, (6, 5))
    _picture(tmp_path / "set" / "a" / "2.png", 1, (4, 9))
    _picture(tmp_path / "set" / "b" / "3.png", 2, (4, 4))
    for source in both(tmp_path / "set"):
        with pytest.raises(DataError, match=r"mixed sizes \(.*6x5.*\): expected --size"):
            load(source)
        found = load(source, size=4)
        assert found.images.shape == (3, 3, 4, 4)
        for image, name in zip(found.images, ("a/1.png", "a/2.png", "b/3.png"), strict=True):
            expected = Image.open(tmp_path / "set" / name).resize((4, 4), Image.Resampling.BILINEAR)
            assert np.array_equal(image.numpy(), np.array(expected).transpose(2, 0, 1))
        assert found.key.tolist() == [pixel_key(image) for image in found.images.numpy()]
        assert load(source, limit=1).images.shape == (1, 3, 5, 6)  # of one size when there is but one


def test_limit_decodes_only_what_it_takes(both: Sources, tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "a" / "1.png", 0)
    (tmp_path / "set" / "a" / "2.png").write_bytes(b"no image")
    for source in both(tmp_path / "set"):
        assert len(load(source, limit=1)) == 1
        with pytest.raises(DataError, match=r"a/2.png: can't be read as an image"):
            load(source)


def test_what_systems_put_beside_images_is_left_out(both: Sources, tmp_path: Path) -> None:
    for number, name in enumerate(
        ["train/a/1.png", "val/a/1.png", "train/a/._1.png", "__MACOSX/train/a/1.png", ".x/a/1.png"]
    ):
        _picture(tmp_path / "set" / name, number)
    for source in both(tmp_path / "set"):
        assert len(load(f"{source}:train")) == len(load(source)) == 1


def test_names_that_are_not_unicode_become_printable(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/set/caf\xe9"
    os.makedirs(folder)
    _picture(tmp_path / "1.png", 0)
    shutil.move(tmp_path / "1.png", os.path.join(os.fsdecode(folder), "1.png"))
    (name,) = load(str(tmp_path / "set")).class_names
    assert name == "caf�" and name.encode()


@pytest.mark.parametrize("holding", [[], ["a.png"], ["notes/readme.txt"], ["a/b/c/d.png"]])
def test_source_without_images_is_told(holding: list[str], both: Sources, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in holding:
        _picture(tmp_path / "set" / f"{name}.png", 0)
        (tmp_path / "set" / f"{name}.png").rename(tmp_path / "set" / name)
    for source in both(tmp_path / "set"):
        with pytest.raises(DataError, match="holds no images, expected one folder of images a class"):
            load(source)


def test_damaged_zip_is_told_wherever_the_damage_is(tmp_path: Path) -> None:
    """Every refusal is one DataError; a change that hits no content may pass."""
    for number in range(3):
        _picture(tmp_path / "set" / "a" / f"{number}.png", number)
    path = Path(shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set"))
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 3):
        for change in (0x55, 0xFF, 0x01):
            path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            try:
                load(str(path))
            except DataError:
                refused += 1
    assert refused > len(content) / 2  # of as many changes as there are bytes
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match="can't be read as a zip"):
        load(str(path))


def test_real_zip(shared_data: Path) -> None:
    source = str(shared_data / "imagenette224-sample.zip")
    test, train = load(source, limit=20), load(f"{source}:train", limit=10)
    assert test.images.shape == (20, 3, 224, 224) and test.labels.tolist() == [k // 2 for k in range(20)]
    assert test.index.tolist() == [40 * (k // 2) + k % 2 for k in range(20)]
    assert train.index.tolist() == [60 * k for k in range(10)] and train.class_names[9] == "n03888257"


# Downloads, without the network --------------------------------------------------------------------------------------


class _FakeCifar10:
    url = "https://example.org/cifar-10-python.tar.gz"
    classes = ("plane", "car")

    def __init__(self, root: str, train: bool, download: bool) -> None:
        assert download
        (Path(root) / "cifar-10-batches-py").mkdir(parents=True, exist_ok=True)
        count = 6 if train else 2
        self.data = np.arange(count * 32 * 32 * 3, dtype=np.int64).reshape(count, 32, 32, 3).astype(np.uint8)
        self.targets = [k % 2 for k in range(count)]


def test_cifar10_comes_from_torchvision_and_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10", _FakeCifar10)
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path / "cache"))
    train = load("cifar10:train")
    out, err = capsys.readouterr()
    assert out == "" and err == f"downloading {_FakeCifar10.url} (170 MB) to {tmp_path}/cache/cifar10\n"
    assert train.images.shape == (6, 3, 32, 32) and train.images.dtype == torch.uint8 and train.split == "train"
    assert np.array_equal(train.images[1].numpy(), _FakeCifar10(str(tmp_path), True, True).data[1].transpose(2, 0, 1))
    assert train.class_names == ("plane", "car") and train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(load("cifar10")) == 2 and len(load("cifar10:all")) == 8
    assert capsys.readouterr() == ("", "")


class _FakeImagenette:
    def __init__(self, root: str, split: str, download: bool) -> None:
        if not download:
            assert (Path(root) / "imagenette2").is_dir()
            return
        assert not (Path(root) / "imagenette2").is_dir()
        for number, name in enumerate(["train/n01/1.JPEG", "val/n01/1.JPEG", "val/n02/1.JPEG"]):
            _picture(Path(root) / "imagenette2" / name, number, (8 + number, 7))


def test_imagenette_comes_from_torchvision_and_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torchvision

    address = torchvision.datasets.Imagenette._ARCHIVES["full"][0]
    monkeypatch.setattr("torchvision.datasets.Imagenette", _FakeImagenette)
    monkeypatch.delenv("FMTOOL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    test = load("imagenette", size=8)
    out, err = capsys.readouterr()
    assert out == "" and err == f"downloading {address} (1.5 GB) to {tmp_path}/fmtool/imagenette\n"
    assert (
        test.images.shape == (2, 3, 8, 8)
        and test.class_names == ("n01", "n02")
        and test.record()["name"] == "imagenette"
    )
    assert len(load("imagenette:train")) == 1
    with pytest.raises(DataError, match=r"imagenette.*mixed sizes .*--size"):
        load("imagenette")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
@pytest.mark.parametrize(
    "error", [OSError("<urlopen error unreachable>"), RuntimeError("Dataset not found or corrupted.")]
)
def test_download_that_fails_is_told(
    name: str, error: Exception, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"torchvision.datasets.{'CIFAR10' if name == 'cifar10' else 'Imagenette'}", fail)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "https://example.org/", raising=False)
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    outcome = run("attack", files / "model.safetensors", "--data", name, "-o", tmp_path / "attack")
    assert outcome.code == 1 and outcome.out == ""
    assert outcome.err.splitlines()[-1] == f"fmtool: error: {name} can't be downloaded: {error}"
    assert outcome.err.startswith("downloading https://") and len(outcome.err.splitlines()) == 2
