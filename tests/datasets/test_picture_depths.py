"""Pixels mean what the picture means: 16 bits, floats, palettes, orientation, several pictures in one file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import pixel_key
from PIL import Image
from torchvision.datasets import ImageFolder

from fmtool.datasets import encoded_rows
from fmtool.datasets.data import load
from fmtool.datasets.encoded_rows import EncodedRows
from fmtool.errors import DataError, FmtoolWarning

Array = np.ndarray[Any, Any]
GREY = np.linspace(0, 65535, 30).astype(np.uint16).reshape(5, 6)
COLOUR = np.random.default_rng(0).integers(0, 65536, (5, 6, 3)).astype(np.uint16)
ALPHA = np.random.default_rng(1).integers(0, 65536, (5, 6, 4)).astype(np.uint16)
KINDS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG's type of colour


def _png16(values: Array) -> bytes:
    h, w, *channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", w, h, 16, KINDS[channels[0] if channels else 1], 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    made = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def _saved(values: Array, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "TIFF", **options)
    return content.getvalue()


def _netpbm(values: Array, white: int, kind: str) -> bytes:
    h, w = values.shape[:2]
    return f"{kind}\n# a comment\n{w} {h}\n{white}\n".encode() + values.astype(">u2").tobytes()


def _folder(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / "set" / "a").mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / "a" / name).write_bytes(content)
    return str(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("grey.png", _png16(GREY), GREY / 65535),
        ("colour.png", _png16(COLOUR), COLOUR / 65535),
        ("alpha.png", _png16(ALPHA), ALPHA[..., :3] / 65535),
        ("grey-alpha.png", _png16(ALPHA[..., :2]), ALPHA[..., 0] / 65535),
        ("grey.tif", _saved(GREY), GREY / 65535),
        ("packed.tiff", _saved(GREY, compression="tiff_lzw"), GREY / 65535),
        ("float.tif", _saved((GREY / 65535).astype(np.float32)), GREY / 65535),
        ("grey.pgm", _netpbm(GREY, 65535, "P5"), GREY / 65535),
        ("twelve.pgm", _netpbm(GREY // 16, 4095, "P5"), (GREY // 16) / 4095),
        ("colour.ppm", _netpbm(COLOUR, 65535, "P6"), COLOUR / 65535),
        ("comments.ppm", _netpbm(COLOUR, 65535, "P6").replace(b"\n", b"\n# one\n# two \n", 1), COLOUR / 65535),
    ],
)
def test_deep_pictures_keep_their_depth(name: str, content: bytes, expected: Array, tmp_path: Path) -> None:
    found = load(_folder(tmp_path, name, content))
    three = np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], (5, 6, 3)).transpose(2, 0, 1)
    assert found.images.dtype == torch.float32 and found.images.shape == (1, 3, 5, 6)
    assert np.allclose(found.images[0].numpy(), three, rtol=0, atol=1e-7)
    assert found.key.tolist() == [pixel_key(found.images[0].numpy())]


def test_one_deep_picture_makes_all_of_them_floats(tmp_path: Path) -> None:
    _folder(tmp_path, "1.png", _png16(GREY))
    shallow = np.random.default_rng(2).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(shallow).save(tmp_path / "set" / "a" / "0.png")
    found = load(str(tmp_path / "set"))
    assert np.allclose(found.images[0].numpy(), shallow.transpose(2, 0, 1) / 255, rtol=0, atol=1e-7)
    assert load(str(tmp_path / "set"), limit=1).images.dtype == torch.uint8  # of what is taken none is deep


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("lazy", [True, False])
def test_a_picture_has_the_same_key_whatever_lies_beside_it(
    size: int | None, lazy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An 8-bit picture has that of its bytes also among floats, where --limit may leave the deep ones out or not."""
    if lazy:
        monkeypatch.setattr(encoded_rows, "IN_MEMORY", 100)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)  # each value of a byte
    for number in (0, 2, 3):
        path = Path(_folder(tmp_path, f"{number}.png", b"")) / "a" / f"{number}.png"
        Image.fromarray(np.stack([np.roll(every, number + shift) for shift in range(3)], axis=2)).save(path)
    source = _folder(tmp_path, "1.png", _png16(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)))
    whole, first, rest = load(source, size=size), load(source, size=size, limit=1), load(source, size=size, rows=(2, 4))
    assert isinstance(whole.images, EncodedRows) == lazy
    assert whole.images.dtype == torch.float32 and first.images.dtype == rest.images.dtype == torch.uint8
    assert torch.equal(whole.key[[0, 2, 3]], torch.cat([first.key, rest.key]))
    assert int(whole.key[1]) == pixel_key(whole.images[1].numpy())
    assert torch.equal(whole.pixels()[[0, 2, 3]], torch.cat([first.pixels(), rest.pixels()]))


def test_deep_pictures_are_squeezed_as_deep_ones(tmp_path: Path) -> None:
    found = load(_folder(tmp_path, "1.png", _png16(np.full((8, 8), 12345, np.uint16))), size=3)
    assert found.images.shape == (1, 3, 3, 3) and np.allclose(found.images.numpy(), 12345 / 65535, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1.tif", _saved(np.full((4, 4), 200, np.float32)), r"its floats range from 200 to 200, expected \[0, 1\]"),
        ("1.tif", _saved(np.array([[0, np.nan]], np.float32)), r"its floats range from nan to nan, expected \[0, 1\]"),
        ("1.tif", _saved(np.full((4, 4), 70000, np.int32)), "32-bit pixels of mode I can't be read without loss"),
        ("1.pgm", b"P2\n2 1\n65535\n0 65535\n", "a plain picture of more than 8 bits can't be read without loss"),
        ("1.png", _png16(COLOUR)[:-40], "can't be read as an image"),
    ],
)
def test_what_would_be_guessed_or_cut_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a/{name}: can't be read as an image.*{message}|a/{name}: {message}"):
        load(_folder(tmp_path, name, content))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_other_modes_are_what_torchvision_makes_of_them(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (5, 6, 3), dtype=np.uint8)).convert(
        "P" if mode == "PA" else mode
    )
    content = io.BytesIO()
    picture.save(content, "TIFF" if mode in ("CMYK",) else "PNG")
    source = _folder(tmp_path, "1.tif" if mode == "CMYK" else "1.png", content.getvalue())
    expected = np.array(ImageFolder(source)[0][0]).transpose(2, 0, 1)
    found = load(source)
    assert found.images.dtype == torch.uint8 and np.array_equal(found.images[0].numpy(), expected)


def test_orientation_is_left_as_torchvision_leaves_it(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(4).integers(0, 256, (8, 6, 3), dtype=np.uint8))
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(content, "JPEG", exif=exif, quality=95)
    source = _folder(tmp_path, "1.jpg", content.getvalue())
    assert np.array_equal(load(source).images[0].numpy(), np.array(ImageFolder(source)[0][0]).transpose(2, 0, 1))
    assert load(source).images.shape == (1, 3, 8, 6)


def test_files_with_several_pictures_are_counted(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 20)]
    content = io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.warns(FmtoolWarning, match="1 files hold more than one picture: the first of each is used"):
        assert int(load(_folder(tmp_path, "1.tif", content.getvalue())).images.unique()) == 10
