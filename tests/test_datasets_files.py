"""Folders, zips and torchvision's downloads: classes and files in byte order, splits, sizes, damage; no network."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, pixel_key
from PIL import Image

from fmtool import image_files
from fmtool.datasets import load
from fmtool.errors import DataError


def _picture(path: Path, number: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray[Any, Any]:
    """A PNG of random pixels; gives them as (3, h, w) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.array(image.convert("RGB")).transpose(2, 0, 1)


Sources = Callable[[Path], list[str]]


@pytest.fixture
def both(tmp_path: Path) -> Sources:
    """A folder as it is and as a zip."""

    def call(folder: Path) -> list[str]:
        return [str(folder), shutil.make_archive(str(tmp_path / folder.name), "zip", folder)]

    return call


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


# Hostile zips and pictures ---------------------------------------------------------------------------------------------


def _png(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and holds a few pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(9)))
    made = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def _pixels(size: int = 4) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size)).save(content, "PNG")
    return content.getvalue()


def _blank_bmp(side: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (side, side)).save(content, "BMP")
    return content.getvalue()


def _zip_in_a_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as inner:
        inner.writestr("a/1.png", _pixels())
    return content.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
HOSTILE = {  # a name in the zip and its content, beside a good a/0.png; what the line says
    "../a/1.png": (_pixels(), "leads out of the zip"),
    "a/../../1.png": (_pixels(), "leads out of the zip"),
    "/a/1.png": (_pixels(), "leads out of the zip"),
    "a/0.png": (_pixels(), "holds a/0.png twice"),
    "a/text.png": (b"not a picture", "text.png: can't be read as an image: it is none of PNG, JPEG"),
    "a/empty.png": (b"", "can't be read as an image"),
    "a/nested.png": (_zip_in_a_zip(), "can't be read as an image"),
    "a/script.png": (POSTSCRIPT, "can't be read as an image"),
    "a/huge.png": (_png(100_000, 100_000), "can't be read as an image: Image size .10000000000 pixels."),
    "a/large.png": (_png(12_000, 10_000), "can't be read as an image: Image size .120000000 pixels."),
    "a/short.png": (_pixels()[:-30], "can't be read as an image"),
    "a/half.png": (_png(8, 8), "can't be read as an image"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_entry_of_a_zip_is_told_in_one_line(name: str, run: Run, tmp_path: Path) -> None:
    content, reason = HOSTILE[name]
    source = tmp_path / "set.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", _pixels())
        archive.writestr(name, content)
    found = run("train-model", "--data", source, "--size", 4, "-o", tmp_path / "model")
    assert found.code == 1 and re.fullmatch(rf"fmtool: error: {source}: .*{reason}[^\n]*\n", found.err), found.err
    assert list(tmp_path.iterdir()) == [source] and not (tmp_path.parent / "a").exists()


def test_link_and_locked_entry_of_a_zip_are_told(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/1.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"a/1.png: can't be read as an image: a symbolic link"):
        load(str(tmp_path / "set.zip"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/1.png", _pixels())
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[6] |= 1  # "encrypted", in the entry's own header and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a/1.png: can't be read as an image: .*(encrypted|password)"):
        load(str(tmp_path / "set.zip"))


@pytest.mark.parametrize("said", ["true", "less"])
def test_zip_that_unpacks_to_far_more_takes_no_memory(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MB of zeros in 64 kB, whether the zip says so or says that they are few."""
    monkeypatch.setattr(image_files, "LARGEST_ENTRY", 2**20)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(2**26))
    content = (tmp_path / "set.zip").read_bytes()
    if said == "less":
        content = content.replace(struct.pack("<I", 2**26), struct.pack("<I", 1000))
        (tmp_path / "set.zip").write_bytes(content)
    assert len(content) < 10**5
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=r"a/1.png: can't be read as an image: (unpacks to more than 1048576|Bad CRC|.*)"
        ):
            load(str(tmp_path / "set.zip"))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("sides", "size", "reason", "decoded"),
    [
        ((1700, 1700, 1700), None, r"a/0.png: 1700x1700 is more than the 2796202 pixels of an image: .* --size", 0),
        ((1700, 1700), 1700, r"a/0.png: 1700x1700 is more than", 0),
        ((4, 1700, 4, 1700), None, r"mixed sizes \(4x4 and 1700x1700\): expected --size", 1),
        ((1700, 4, 1700), 4, "", 3),
    ],
)
def test_of_several_bombs_none_is_decoded(
    sides: tuple[int, ...], size: int | None, reason: str, decoded: int, both: Sources, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Some kB each, and 9 MB of pixels."""
    for number, side in enumerate(sides):
        path = tmp_path / "set" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_pixels(side))
        assert path.stat().st_size < 2**16
    seen: list[object] = []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda *given: seen.append(given) or convert(*given))
    for source in both(tmp_path / "set"):
        seen.clear()
        if reason:
            with pytest.raises(DataError, match=reason):
                load(source, size=size)
        else:
            assert load(source, size=size).images.shape == (3, 3, 4, 4)
        assert len(seen) == decoded


def test_images_that_no_memory_holds_are_told(tmp_path: Path) -> None:
    """3,000 pictures of a few bytes, 2 GB of pixels, for a process that may have half of that beside its libraries."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "0.png").write_bytes(_pixels(480))
    for number in range(1, 3000):
        (tmp_path / "set" / "a" / f"{number}.png").hardlink_to(tmp_path / "set" / "a" / "0.png")
    code = (
        "import resource, sys, torch, PIL.Image, fmtool\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "try:\n    fmtool.load_data(sys.argv[1])\nexcept fmtool.FmtoolError as error:\n    print(error)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "set")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == f"{tmp_path / 'set'}: 3000 images don't fit into memory: expected a smaller --limit or --size\n"
    )


def test_large_picture_of_few_bytes_is_squeezed_when_it_is_allowed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.bmp", _blank_bmp(500))
    assert load(str(tmp_path / "set.zip"), size=4).images.shape == (1, 3, 4, 4)


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
