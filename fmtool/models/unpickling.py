"""Read files of weights by their content: safetensors, and pickles that run no code; name any other format."""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from fmtool.artifacts.files import load_pickled
from fmtool.artifacts.format import parse_header, tensors_in
from fmtool.errors import ModelError, first_line

# first bytes of files often mistaken for checkpoints -> what they are
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file: fetch it with git lfs pull",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes it: expected weights of a torch network",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x93NUMPY": "a NumPy array: expected named weights",
    b"%PDF": "a PDF",
    b"GIF8": "a picture",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")
ZIP = b"PK\x03\x04"
# (end of an entry's name in a zip, what the zip is)
ENTRIES = (
    ("constants.pkl", "a TorchScript archive: save the state_dict() of the module that was compiled instead"),
    ("model.weights.h5", "a Keras model: expected weights of a torch network"),
    ("serialized_state_dict.pt", "an exported program of torch.export: save the module's state_dict() instead"),
    (".npy", "an archive of NumPy arrays: expected a checkpoint that torch.save or safetensors wrote"),
)
HOW_TO_GO_ON = "torch.save(torch.load(FILE, weights_only=False)[...], 'weights.pth')"
ANOTHER_PICKLE = "torch.save(pickle.load(open(FILE, 'rb'))[...], 'weights.pth')"


def contents(data: bytes, path: str) -> Any:
    """The content of a file of weights; ModelError says what the file is instead. data: its bytes; path: only for messages."""
    if is_safetensors(data) or path.endswith(".safetensors"):
        parse_header(data, path)
        return tensors_in(data, path)
    other_kind = _other_kind(data)
    if other_kind:
        raise ModelError(f"{path}: not a checkpoint: {other_kind}")
    return _unpickle(data, path)


def is_safetensors(data: bytes) -> bool:
    """Whether a file's bytes begin as those of a safetensors file."""
    return data[8:9] == b"{" and 0 < int.from_bytes(data[:8], "little") <= len(data) - 8


def _other_kind(data: bytes) -> str:
    """What a file is, if it is not a checkpoint; empty if it may be one."""
    if not data.strip():
        return "the file is empty"
    if data.lstrip()[:9].lower().startswith(MARKUP):
        return "a web page or markup: the download gave a page in place of the file"
    beginning = next((what for start, what in BEGINNINGS.items() if data.startswith(start)), "")
    if beginning:
        return beginning
    if data.startswith(ZIP):
        return _other_zip(data)
    if data[:1] == b"\x08" and (b"onnx" in data[:200].lower() or b"pytorch" in data[:200].lower()):
        return "an ONNX graph: expected weights of a torch network"
    if data[4:8] == b"TFL3":
        return "a TensorFlow Lite model: expected weights of a torch network"
    if data[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    return ""


def _other_zip(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "truncated or damaged, the end of its zip archive is missing"
    if any(name.endswith("data.pkl") for name in names) and not any(name.endswith("constants.pkl") for name in names):
        return ""
    what = next((what for end, what in ENTRIES if any(name.endswith(end) for name in names)), "")
    return what or "a zip archive that torch.save did not write: unpack it first"


def _unpickle(data: bytes, path: str) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()):
            return load_pickled(io.BytesIO(data))
    except pickle.UnpicklingError as error:
        text = str(error).rpartition("WeightsUnpickler error: ")[2]
        if built := re.search(r"but got <class '([\w.]+)'>", text):
            text = f"GLOBAL {built[1]}"
        name = next((word for word in text.replace("`", " ").split() if "." in word and "GLOBAL" not in word), "")
        refused = text.partition("GLOBAL ")[2].split(" ")[0].rstrip(".,") or name
        how = HOW_TO_GO_ON
        if "GLOBAL" not in text:  # a pickle that torch didn't write
            refused, how = _first_global(data), ANOTHER_PICKLE
        if refused:
            raise ModelError(
                f"{path}: refused, unpickling it would run code ({refused}): expected a state dict of tensors; "
                f"if you trust the file, save only that: {how}"
            ) from None
        raise ModelError(f"{path}: not a checkpoint ({first_line(text.strip() or error)[:100]})") from None
    except Exception as error:  # damaged bytes may cause any exception
        raise ModelError(f"{path}: not a checkpoint ({first_line(error)[:100]})") from None


def _harmless() -> list[Any]:
    """Types that training loops store beside weights: NumPy's numbers and arrays, `defaultdict`. Creating them runs no code."""
    dtypes = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"}
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # NumPy 1 and 2
    return [
        (_as_dict, "collections.defaultdict"),
        *((_factory, f"builtins.{kind}") for kind in ("dict", "list", "int", "float")),
        np.ndarray,
        np.dtype,
        *dtypes,
        *((_number, f"{module}.scalar") for module in modules),
        *((_array, f"{module}._reconstruct") for module in modules),
        (_in_latin1, "_codecs.encode"),
    ]


def _as_dict(*_: Any) -> dict[Any, Any]:
    """A plain dict in place of a `defaultdict`, which the unpickler doesn't fill."""
    return {}


def _factory(*_: Any) -> None:
    """What makes a defaultdict's values: never called."""
    raise pickle.UnpicklingError("expected a class of Python only as the factory of a defaultdict")


def _number(dtype: np.dtype[Any], content: bytes) -> Any:
    """A NumPy scalar from its bytes; NumPy's own function would also take objects."""
    return np.frombuffer(content, dtype, count=1)[0]


def _array(kind: type, shape: Iterable[int], code: bytes) -> np.ndarray[Any, Any]:
    """The empty array that a pickle then fills."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"expected an array of NumPy, got {kind!r}")
    return np.empty(0, np.int8)


def _in_latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickles of protocol 2 spell them."""
    return text.encode("latin1")


def _first_global(data: bytes) -> str:
    """What a pickle would import first; empty if it imports nothing or isn't a pickle."""
    texts: list[str] = []
    with contextlib.suppress(Exception):  # damaged bytes may cause any exception
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if operation.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            texts += [argument] if isinstance(argument, str) else []
    return ""
