"""Image files, in a folder or a zip: which ones there are, and their pixels. Hostile ones end in one line and little memory."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fmtool.artifacts.schema import LARGEST_IMAGE
from fmtool.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")  # one of Pillow's others runs Ghostscript
LARGEST_ENTRY = 2**28  # bytes of a file in a zip: a few bytes there may say that they unpack to any size


def open_zip(source: str) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of a zip's files, and what reads one of them.

    Nothing is ever unpacked to a disk, but a name that leads elsewhere is no honest one.
    """
    try:
        archive = zipfile.ZipFile(source)
    except Exception as error:  # of damaged bytes the library may raise anything at all
        raise DataError(f"{source}: can't be read as a zip: {str(error) or type(error).__name__}") from None
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise DataError(f"{source}: {name}: leads out of the zip")
    if len(set(names)) < len(names):
        raise DataError(f"{source}: holds {next(name for name in names if names.count(name) > 1)} twice")
    return names, lambda name: _unzip(archive, name)


def _unzip(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a zip; OSError where it is a link or larger than `LARGEST_ENTRY`, whatever size it says it has."""
    entry = archive.getinfo(name)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise OSError("a symbolic link")
    size = min(entry.file_size, LARGEST_ENTRY) + 1  # the library unpacks no more than it is asked for
    with archive.open(entry) as file:
        data = file.read(size)
    if len(data) == size:
        raise OSError(f"unpacks to more than {size - 1} bytes")
    return data


def is_image(path: PurePosixPath) -> bool:
    """By its suffix; what macOS and editors put beside the user's own files is left out."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def decode(read: Callable[[str], bytes], names: Sequence[str], source: str, size: int | None) -> Tensor:
    """Image files as (n, 3, h, w) uint8, decoded one at a time; `size` squeezes them, antialiased.

    Each header is read before the pixels: an image that is too large, or of another size than the first, is never decoded.
    """
    import numpy as np
    import torch

    pixels = np.empty((0, 3, 0, 0), dtype=np.uint8)
    try:
        for row, name in enumerate(names):
            with _opened(read, name, source) as file:
                w, h = file.size if size is None else (size, size)
                if row == 0:
                    first = w, h
                    _check_size(w, h, f"{source}: {name}")
                    pixels = np.empty((len(names), 3, h, w), dtype=np.uint8)
                elif (w, h) != first:
                    some = f"{first[0]}x{first[1]} and {w}x{h}"
                    raise DataError(f"{source}: images of mixed sizes ({some}): expected --size to squeeze them to one")
                pixels[row] = np.asarray(_squeezed(file.convert("RGB"), (w, h))).transpose(2, 0, 1)
    except MemoryError:
        raise DataError(
            f"{source}: {len(names)} images don't fit into memory: expected a smaller --limit or --size"
        ) from None
    return torch.from_numpy(pixels)


@contextmanager
def _opened(read: Callable[[str], bytes], name: str, source: str) -> Iterator[Image]:
    """An image whose pixels have not been decoded; what goes wrong within the block is said of its file."""
    from PIL import Image, UnidentifiedImageError

    what = f"{source}: {name}: can't be read as an image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(read(name)), formats=IMAGE_FORMATS) as file:
                yield file
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:  # its text is an address in memory
        raise DataError(f"{what}: it is none of {', '.join(IMAGE_FORMATS)}") from None
    except Exception as error:  # of damaged bytes a decoder may raise anything at all
        raise DataError(f"{what}: {str(error) or type(error).__name__}") from None


def _check_size(w: int, h: int, what: str) -> None:
    if 3 * w * h > LARGEST_IMAGE:
        raise DataError(
            f"{what}: {w}x{h} is more than the {LARGEST_IMAGE // 3} pixels of an image: expected a smaller --size"
        )


def _squeezed(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    return image if image.size == size else image.resize(size, Resampling.BILINEAR)
