"""CIFAR-10 and CIFAR-100 as published: pickled batches for Python, or binary ones. Only arrays are unpickled."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

from fmtool.datasets.labels import printable_name
from fmtool.datasets.source import WHOLE, Source, Split
from fmtool.datasets.splits import TEST, TRAIN
from fmtool.errors import DataError, first_line

SIDE, PIXELS = 32, 3 * 32 * 32
BATCHES = 5  # of CIFAR-10's training images
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEN = re.compile(r"(data_batch_[1-5]|test_batch)(\.bin)?")
HUNDRED = re.compile(r"(train|test)(\.bin)?")
META = {"batches.meta": b"label_names", "meta": b"fine_label_names"}
TEXT_META = ("batches.meta.txt", "fine_label_names.txt")


def recognises(path: Path) -> bool:
    if path.is_dir():
        return bool(_batches_in(path))
    return TEN.fullmatch(path.name) is not None and path.is_file()


def read(path: Path, name: str) -> Source:
    if not path.is_dir():
        return Source({WHOLE: _read_batches([path], name)}, _class_names(path.parent, [path.name]))
    files = _batches_in(path)
    train = [file for file in files if file.stem != "test_batch" and file.stem != TEST]
    test = [file for file in files if file not in train]
    if "batch" in files[0].stem:
        there = {file.stem for file in train}
        missing = [f"data_batch_{k}" for k in range(1, BATCHES + 1) if f"data_batch_{k}" not in there]
        if train and missing:
            raise DataError(f"{name}: has no {', '.join(missing)}")
    splits = {split: _read_batches(some, name) for split, some in ((TRAIN, train), (TEST, test)) if some}
    return Source(splits, _class_names(path, [file.name for file in files]))


def _batches_in(path: Path) -> list[Path]:
    """The batches of a folder, pickled ones before binary ones, in their order; empty if it is not CIFAR's."""
    files = [one for one in path.iterdir() if os.path.isfile(one)] if _readable(path) else []
    for suffix in ("", ".bin"):
        ten = [one for one in files if TEN.fullmatch(one.name) and one.suffix == suffix]
        hundred = [one for one in files if HUNDRED.fullmatch(one.name) and one.suffix == suffix]
        if ten or hundred:
            return sorted(ten or hundred, key=lambda one: one.name)
    return []


def _readable(path: Path) -> bool:
    try:
        next(path.iterdir(), None)
    except OSError:
        return False
    return True


def _read_batches(files: list[Path], name: str) -> Split:
    import numpy as np

    parts = [_read_binary(file, name) if file.suffix == ".bin" else _read_pickle(file, name) for file in files]
    images = np.concatenate([images for images, _ in parts]).reshape(-1, 3, SIDE, SIDE)
    return Split(images, np.concatenate([labels for _, labels in parts]))


def _read_binary(file: Path, name: str) -> tuple[Any, Any]:
    """Records of one label byte, or two of CIFAR-100 (coarse, fine), and 3,072 pixels."""
    import numpy as np

    content = np.fromfile(file, dtype=np.uint8)
    label_bytes = 1 if TEN.fullmatch(file.name) else 2
    if not len(content) or len(content) % (label_bytes + PIXELS):
        raise DataError(f"{name}: {file.name} is {len(content)} bytes, not a multiple of {label_bytes + PIXELS}")
    records = content.reshape(-1, label_bytes + PIXELS)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _read_pickle(file: Path, name: str) -> tuple[Any, Any]:
    import numpy as np

    batch = _unpickled(file, name)
    data = _get(batch, b"data")
    labels = next((values for key in (b"fine_labels", b"labels") if (values := _get(batch, key)) is not None), None)
    if data is None or labels is None:
        raise DataError(f"{name}: {file.name} has no data and labels")
    data, labels = np.asarray(data), np.asarray(labels)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS or labels.shape != data.shape[:1]:
        raise DataError(
            f"{name}: {file.name} holds data {data.dtype} {list(data.shape)} and labels {list(labels.shape)}, "
            f"expected uint8 (n, {PIXELS}) and (n)"
        )
    return data, labels


def _class_names(folder: Path, batches: list[str]) -> tuple[str, ...]:
    for file, key in META.items():
        if (folder / file).is_file():
            names = _get(_unpickled(folder / file, str(folder / file)), key) or ()
            return tuple(_text(name) for name in names)
    for file in TEXT_META:
        if (folder / file).is_file():
            lines = (folder / file).read_text(errors="replace").splitlines()
            return tuple(printable_name(line.strip()) for line in lines if line.strip())
    return CIFAR10 if any(TEN.fullmatch(name) for name in batches) else ()


def _get(batch: Any, key: bytes) -> Any:
    """An entry whose name is bytes, as Python 2 wrote it, or text."""
    return batch.get(key, batch.get(key.decode())) if isinstance(batch, dict) else None


def _text(name: Any) -> str:
    return printable_name(name.decode(errors="replace") if isinstance(name, bytes) else str(name))


def _unpickled(file: Path, name: str) -> Any:
    try:
        with open(file, "rb") as stream:
            return _ArraysOnly(stream, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{name}: {file.name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes may cause any exception
        raise DataError(f"{name}: {file.name} can't be unpickled: {first_line(error)}") from None


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain values and NumPy arrays; any other name is refused, so that no pickle runs code."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        # NumPy's own functions by what they are called in pickles of any of its versions
        makers: list[Any] = [np.zeros(1).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0], np.int64(0).__reduce__()[0]]
        if re.fullmatch(r"numpy\.(_?core)\.(multiarray|numeric)", module):
            maker = next((one for one in makers if one.__name__ == name), None)
            if maker is not None:
                return maker
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise DataError(f"holds {module}.{name}, which is not an array: refused, as a pickle may run any code")


def _latin1(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 hold bytes as."""
    if encoding not in ("latin1", "latin-1"):
        raise DataError(f"holds text that is encoded as {encoding}")
    return text.encode("latin1")
