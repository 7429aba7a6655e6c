"""Zips of images: hostile entries, links, bombs, damage, names from Windows."""

from __future__ import annotations

import io
import re
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from conftest import Run
from PIL import Image

from fmtool.datasets.data import load
from fmtool.datasets.readers import zips
from fmtool.errors import DataError


def _png(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and holds a few pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(9)))
    made = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def _pixels(size: int = 4) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size)).save(content, "PNG")
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
    "..\\a\\1.png": (_pixels(), "leads out of the zip"),
    "a\\..\\..\\1.png": (_pixels(), "leads out of the zip"),
    "a/0.png": (_pixels(), "holds a/0.png twice"),
    "a/text.png": (b"not a picture", "text.png: can't be read as an image: its format is none of PNG, JPEG"),
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


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_spaces_in_paths_belong_to_names(separator: str, tmp_path: Path) -> None:
    source = tmp_path / "my pictures" / "a set.zip"
    source.parent.mkdir()
    with zipfile.ZipFile(source, "w") as archive:
        for number, name in enumerate(["tabby cat/a 1.png", "tabby cat/ 2.png", "great dane/b (1).png"]):
            entry = zipfile.ZipInfo("x")
            entry.filename = separator.join(["the set", *name.split("/")])
            archive.writestr(entry, _pixels(4 + number))
    found = load(str(source), size=4)
    assert found.class_names == ("great dane", "tabby cat") and found.labels.tolist() == [0, 1, 1]


def test_names_in_utf8_are_read_whether_or_not_the_zip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their order is that of the folder, and names of the code page of DOS stay what they are."""

    def zipped(flag: int, coding: str, *names: str) -> str:
        source = tmp_path / "names.zip"
        monkeypatch.setattr(
            zipfile.ZipInfo, "_encodeFilenameFlags", lambda entry: (entry.filename.encode(coding), flag)
        )
        with zipfile.ZipFile(source, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), _pixels())
        return str(source)

    for flag in (0, 0x800):
        assert load(zipped(flag, "utf-8", "кот/1.png", "собака/1.png")).class_names == ("кот", "собака")
    assert load(zipped(0, "cp437", "café/1.png", "dog/1.png")).class_names == ("café", "dog")


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
    monkeypatch.setattr(zips, "LARGEST_ENTRY", 2**20)
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
