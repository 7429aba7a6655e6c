"""One image file: whether it is one, its size, and its pixels. Hostile files cause one error line and take little memory.

EXIF orientation is not applied, as torchvision's ImageFolder doesn't; Pillow itself applies that of a TIFF.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.schema import LARGEST_IMAGE
from fmtool.errors import DataError, first_line

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Pixels = np.ndarray[Any, Any]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}  # torchvision's
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")  # another one of Pillow's runs Ghostscript
SYSTEM_FILES = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
}
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
UNSIGNED, WHITE_IS_ZERO = 1, 0  # their values
NUMBER = rb"(?:\s|#[^\n]*\n)+(\d+)"  # after white space and comments, of a header of Netpbm
NETPBM = re.compile(rb"P([56])" + NUMBER * 3 + rb"\s")
BROADEST = 255  # 8-bit value


@dataclass(frozen=True)
class Look:
    """An image's header. deep: has more than 8 bits per value and becomes float32; frames: how many it holds."""

    width: int
    height: int
    deep: bool
    frames: int


def is_image(path: PurePosixPath) -> bool:
    """By its suffix, as torchvision does."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def refuse_beside_pictures(data: Path, others: Iterable[Path], name: str) -> None:
    """DataError where pictures lie beside a file of another format, so that either may be the data."""
    picture = next((one for one in others if is_image(PurePosixPath(one)) and not is_hidden(one.name)), None)
    if picture is not None:
        raise DataError(
            f"{name}: holds {data.name} and pictures such as {picture.parent.name}/{picture.name}: name the file that is meant, "
            "or move one of the two elsewhere"
        )


def is_hidden(name: str) -> bool:
    """Files that systems and editors add: names with a dot first, Thumbs.db and the like."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES or name == "Icon\r"


def look(read: Callable[[str], bytes], name: str, source: str) -> Look:
    """An image's size and depth, without decoding its pixels."""
    with opened(read, name, source) as (file, data):
        return Look(*file.size, _is_deep(file, data), getattr(file, "n_frames", 1))


def decode(read: Callable[[str], bytes], name: str, source: str, size: tuple[int, int], as_float: bool) -> Pixels:
    """(3, h, w), uint8 or, `as_float`, float32 in [0, 1]; `size` (w, h) squeezes it, antialiased."""
    import numpy as np

    with opened(read, name, source) as (file, data):
        if _is_deep(file, data):
            return _deep(file, data, size)
        pixels = np.asarray(_squeezed(file.convert("RGB"), size)).transpose(2, 0, 1)
        return pixels.astype(np.float32) / BROADEST if as_float else np.ascontiguousarray(pixels)


def check_size(width: int, height: int, what: str) -> None:
    if 3 * width * height > LARGEST_IMAGE:
        raise DataError(
            f"{what}: {width}x{height} is more than the {LARGEST_IMAGE // 3} pixels of an image: expected a smaller --size"
        )


@contextmanager
def opened(read: Callable[[str], bytes], name: str, source: str) -> Iterator[tuple[Image, bytes]]:
    """An image whose pixels have not been decoded, and its bytes; errors within the block name the file."""
    from PIL import Image, UnidentifiedImageError

    what = f"{source}: {name}: can't be read as an image"
    try:
        data = read(name)
        with _QUIET.entered(), Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as file:
            yield file, data
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:  # its message is a memory address
        raise DataError(f"{what}: its format is none of {', '.join(IMAGE_FORMATS)}") from None
    except Exception as error:  # damaged bytes may cause any exception
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{what}: {reason}") from None


class _Quiet:
    """Adjusts Pillow's warnings: none about odd tags, an error for too many pixels.

    Warning filters belong to the process, so the first of several threads sets them and the last one restores them.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.filters = threading.Lock(), 0, ExitStack()

    @contextmanager
    def entered(self) -> Iterator[None]:
        from PIL.Image import DecompressionBombWarning

        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", DecompressionBombWarning)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.filters.close()


_QUIET = _Quiet()


def _is_deep(file: Image, data: bytes) -> bool:
    """Whether values have more than 8 bits, which Pillow's conversion to RGB would clip."""
    if file.mode.startswith(("I", "F")):
        return True
    if file.format == "PNG":
        return data[24] == 16  # bit depth, in the first chunk
    if file.format == "TIFF":
        return max(_tag(file, BITS_PER_SAMPLE, (8,))) > 8
    if file.format == "PPM":
        return _netpbm_white(data) > BROADEST
    return False


def _deep(file: Image, data: bytes, size: tuple[int, int]) -> Pixels:
    """(3, h, w) float32 in [0, 1] of 16-bit and float pictures, alpha left out."""
    import numpy as np

    if file.format == "PNG":
        planes = _png(data)
    elif file.format == "PPM":
        planes = _netpbm(data)
    elif file.format == "TIFF":
        planes = _tiff(file)
    else:
        raise OSError(f"{file.format} of mode {file.mode} can't be read without loss: expected 16-bit PNG")
    if planes.shape[1:] != (size[1], size[0]):
        from PIL import Image

        squeezed = [np.asarray(_squeezed(Image.fromarray(plane), size)) for plane in planes]
        planes = np.stack(squeezed).clip(0, 1)
    return np.ascontiguousarray(np.broadcast_to(planes, (3, *planes.shape[1:])), dtype=np.float32)


def _png(data: bytes) -> Pixels:
    """(1 or 3, h, w): Pillow keeps 8 bits of colour, torchvision all 16."""
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_png

    values = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED).numpy()
    colours = 1 if len(values) < 3 else 3
    planes: Pixels = values[:colours].astype(np.float32) / np.float32(2**16 - 1)
    return planes


def _netpbm_white(data: bytes) -> int:
    """The largest value of a binary picture, 0 if the header is invalid."""
    match = NETPBM.match(data)
    return int(match[4]) if match else _plain_white(data)


def _plain_white(data: bytes) -> int:
    match = re.match(rb"P[23]" + NUMBER * 3, data)
    return int(match[3]) if match else 0


def _netpbm(data: bytes) -> Pixels:
    import numpy as np

    match = NETPBM.match(data)
    if not match:
        raise OSError("a plain picture of more than 8 bits can't be read without loss: expected a binary one")
    channels, w, h, white = 3 if match[1] == b"6" else 1, *(int(match[k]) for k in (2, 3, 4))
    values = np.frombuffer(data, ">u2", count=channels * w * h, offset=match.end())
    if white > 2**16 - 1 or values.max() > white:
        raise OSError(f"holds values above {white}, its white")
    return values.reshape(h, w, channels).transpose(2, 0, 1).astype(np.float32) / np.float32(white)


def _tiff(file: Image) -> Pixels:
    """(1, h, w): grey of up to 16 bits, or floats in [0, 1]."""
    import numpy as np

    bits = max(_tag(file, BITS_PER_SAMPLE, (8,)))
    if file.mode == "F":
        values = np.asarray(file, dtype=np.float32)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise OSError(f"its floats range from {low:.6g} to {high:.6g}, expected [0, 1]")
    elif file.mode.startswith("I") and bits <= 16 and _tag(file, SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED:
        values = np.asarray(file).astype(np.float32) / np.float32(2**bits - 1)
    else:
        raise OSError(
            f"{bits}-bit pixels of mode {file.mode} can't be read without loss: expected 16-bit PNG, or grey of 16 bits"
        )
    if _tag(file, PHOTOMETRIC, (1,))[0] == WHITE_IS_ZERO:
        values = 1 - values
    return values[None]


def _tag(file: Any, number: int, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    value = file.tag_v2.get(number, otherwise)
    return value if isinstance(value, tuple) else (value,)


def _squeezed(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    return image if image.size == size else image.resize(size, Resampling.BILINEAR)
