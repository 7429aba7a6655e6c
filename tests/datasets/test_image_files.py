"""Pictures of few bytes and many pixels: one line each, and little memory."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from conftest import Sources
from PIL import Image

from fmtool.datasets.data import load
from fmtool.errors import DataError


def _pixels(size: int = 4) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size)).save(content, "PNG")
    return content.getvalue()


def _blank_bmp(side: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (side, side)).save(content, "BMP")
    return content.getvalue()


@pytest.mark.parametrize(
    ("sides", "size", "reason", "decoded"),
    [
        ((1700, 1700, 1700), None, r"a/0.png: 1700x1700 is more than the 2796202 pixels of an image: .* --size", 0),
        ((1700, 1700), 1700, r"a/0.png: 1700x1700 is more than", 0),
        ((4, 1700, 4, 1700), None, r"mixed sizes \(4x4 and 1700x1700\): pass --size", 0),
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


def test_large_picture_of_few_bytes_is_squeezed_when_it_is_allowed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.bmp", _blank_bmp(500))
    assert load(str(tmp_path / "set.zip"), size=4).images.shape == (1, 3, 4, 4)
