"""The formats that data may have. Nothing heavy is imported to read this table.

A new format is one module here with `recognises(path)` and `read(path, name)`, where messages call it by `name`, and one line in
the table.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from fmtool.datasets.source import Source
from fmtool.errors import DataError, FmtoolError, first_line

# Module -> what it reads. The first one that recognises a path reads it; the most specific come first.
READERS: dict[str, str] = {
    "cifar": "CIFAR-10's and CIFAR-100's batches (cifar-10-batches-py, cifar-100-python, cifar-10-batches-bin)",
    "idx": "MNIST's idx files, gzipped or not",
    "parquet": "Parquet as Hugging Face's data sets have it, a file or a folder of part files",
    "numpy_files": ".npz, or .npy with labels.npy beside it",
    "torch_files": ".pt (a dict, a tuple or a TensorDataset of tensors)",
    "zips": "a zip with one folder of images per class",
    "folders": "a folder with one folder of images per class, or such a folder for each split",
    "safetensors_files": ".safetensors with images and labels",
}
SHORT = (
    "safetensors, .npz, .npy, .pt, CIFAR's batches, idx, Parquet, a folder or zip with one folder of images per class"
)


def read_path(name: str) -> Source:
    """The source at a path, by the first reader that recognises it. DataError for anything that can't be read."""
    path = _inner(Path(name))
    reader, module = _reader_of(path)
    what = READERS[reader]
    try:
        source: Source = module.read(path, name)
        return replace(source, format=reader)
    except FmtoolError:
        raise
    except MemoryError:
        raise DataError(f"{name}: doesn't fit into memory") from None
    except Exception as error:  # damaged bytes may cause any exception
        raise DataError(
            f"{name}: can't be read as {what}: {first_line(error)}; formats that can be read: {SHORT}"
        ) from None


def _reader_of(path: Path) -> tuple[str, Any]:
    for name in READERS:
        module = import_module(f"fmtool.datasets.readers.{name}")
        if module.recognises(path):
            return name, module
    raise AssertionError("the last reader takes every file")


def _inner(path: Path) -> Path:
    """The folder itself, or its only subfolder if that holds a known format."""
    inner = path
    while os.path.isdir(inner):
        if _reader_of(inner)[0] != "folders":
            return inner
        try:
            below = [entry for entry in os.scandir(inner) if not entry.name.startswith(".")]
        except OSError:
            break
        folders = [entry for entry in below if os.path.isdir(entry.path)]  # False too where a link loops
        if len(folders) != 1 or os.path.samefile(folders[0].path, inner):
            break
        if len(inner.parts) > len(path.parts) + 8:
            break
        inner = Path(folders[0].path)
    return path


def is_data(path: Path) -> bool:
    """Whether a folder or file is one that holds data, as far as its name and, of safetensors, its header tell."""
    if not os.path.exists(path):  # False too where the folder can't be entered
        return False
    name, module = _reader_of(path)
    return bool(module.holds_images(path)) if name == "safetensors_files" else True
