"""Matrices in other programs' files, one row a sample: safetensors, .npy, .npz, .pt and .csv."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.files import label, load_pickled, read_bytes
from fmtool.artifacts.format import parse_header, tensors_in
from fmtool.errors import ArtifactError, FmtoolError, first_line, warn

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Arrays = dict[str, Any]

MATRIX = "matrix"  # how histories name a matrix that was correlated
LABELS = "labels"  # integers (n) beside the matrix
MISSING = ("na", "n/a", "#n/a", "null", "none", "?", "-")  # what stands for a missing number in a .csv
LABEL_COLUMNS = ("label", "labels", "class")  # of a .csv with a header
ONLY = ""  # the name of a matrix that is alone in its file
SHOWN = 8  # names of matrices, or rows, in a message
WIDEST = 8  # bytes of a number that torch takes
EXACT = 2**53  # float64 holds every integer below


def read_matrix(source: str, data: bytes | None = None) -> tuple[Tensor, Tensor | None]:
    """The matrix (n, d) that FILE or FILE:NAME names, and the labels (n) beside it, if there are any.

    Integers, bytes and narrow floats become float64 or float32; a vector is one column, and axes behind the second are flattened
    into it, which is said. data: a safetensors file's bytes, where they have been read already. ArtifactError where no matrix can
    be read, or several could be meant.
    """
    file, name = file_and_name(source)
    arrays = _read(file) if data is None else _tensors(data, file)
    labels = arrays.pop(LABELS, None) if name != LABELS else None
    chosen = _chosen(arrays, file, name)
    return _as_rows(arrays[chosen], source), None if labels is None else _as_tensor(labels, source)


def matrices_in(source: str) -> Iterator[Tensor]:
    """The matrix that FILE:NAME names, or every array of numbers in FILE, each as `read_matrix` gives it by its name."""
    file, name = file_and_name(source)
    for key, values in _read(file).items():
        if getattr(values, "ndim", 0) > 0 and name in (None, key):
            with contextlib.suppress(ArtifactError):  # text, complex numbers
                yield _as_rows(values, source)


def file_and_name(source: str) -> tuple[str, str | None]:
    """FILE and NAME of FILE:NAME; no name if the whole is a file's."""
    file, colon, name = source.rpartition(":")
    return (source, None) if os.path.exists(source) or not colon else (file, name)


def digest_of(values: Tensor) -> str:
    """The digest by which histories record a matrix, or the labels of its rows."""
    import torch

    flat = values.flatten().contiguous()
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes() if len(flat) else b"").hexdigest()


def given_matrix(values: Any, what: str) -> Tensor:
    """Numbers of a caller in Python, in the form in which a file gives them; what: to call them in an ArtifactError."""
    return _dense(values, f"expected {what} of numbers, got {type(values).__name__}")


def _dense(values: Any, otherwise: str) -> Tensor:
    """Values as a tensor on the CPU; otherwise: what an ArtifactError begins with."""
    import torch

    try:
        return torch.as_tensor(values).detach().cpu().to_dense()
    except (TypeError, ValueError, RuntimeError) as error:  # other objects; quantised, nested, or without values
        raise ArtifactError(f"{otherwise}: {first_line(error)}") from None


def _read(file: str) -> Arrays:
    suffix = Path(file).suffix.lower()
    reader = READERS.get(suffix, _read_safetensors)
    try:
        return reader(file)
    except FmtoolError as error:
        if suffix in ("", ".safetensors", *READERS) or not os.path.isfile(file):
            raise
        raise ArtifactError(
            f"{error}; a matrix is expected in a file named .safetensors, {', '.join(READERS)}"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{file}: can't be read: {error.strerror or error}") from None
    except MemoryError:
        raise ArtifactError(f"{file}: doesn't fit into memory") from None
    except Exception as error:  # of damaged bytes a library may raise anything at all
        raise ArtifactError(f"{file}: can't be read as {suffix}: {first_line(error)}") from None


def _chosen(arrays: Mapping[str, Any], file: str, name: str | None) -> str:
    """The array that is meant: the one of this name, the only one, or the only one that is no vector."""
    names = sorted(key for key, values in arrays.items() if getattr(values, "ndim", 0) > 0)
    there = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    if name is not None:
        if name not in names:
            raise ArtifactError(f"{label(file)}: holds no matrix {name!r}, only {there or 'none'}")
        return name
    matrices = [key for key in names if arrays[key].ndim > 1] or names
    if len(matrices) != 1:
        tail = f" ({there}): expected FILE:NAME to choose one" if names else ""
        raise ArtifactError(
            f"{label(file)}: expected a mask file, or a file with one matrix (n, d); it holds {len(matrices)}{tail}"
        )
    others = [key for key in names if key != matrices[0]]
    if others:
        warn(f"{label(file)}: takes {matrices[0]} and leaves out {', '.join(others)}")
    return matrices[0]


def _as_rows(values: Any, source: str) -> Tensor:
    import torch

    rows = _as_tensor(values, source)
    if rows.is_complex():
        raise ArtifactError(f"{label(source)}: expected real numbers, got {str(rows.dtype).removeprefix('torch.')}")
    if not rows.is_floating_point():
        rows = rows.to(torch.float64)
    elif rows.dtype.itemsize < torch.float32.itemsize:
        rows = rows.to(torch.float32)
    if rows.ndim > 2:
        flat = rows.flatten(1)
        warn(f"{label(source)}: {list(rows.shape)} is flattened to {list(flat.shape)}")
        return flat
    return rows if rows.ndim == 2 else rows[:, None]


def _as_tensor(values: Any, source: str) -> Tensor:
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        return _dense(values, f"{label(source)}: holds no plain tensor")
    if values.dtype.kind not in "biufc" or values.dtype.itemsize > WIDEST * (1 + (values.dtype.kind == "c")):
        raise ArtifactError(f"{label(source)}: holds {values.dtype}, expected numbers of at most {8 * WIDEST} bits")
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C", copy=True))


def _read_safetensors(file: str) -> Arrays:
    return _tensors(read_bytes(file), file)


def _tensors(data: bytes, file: str) -> Arrays:
    parse_header(data, label(file))
    return dict(tensors_in(data, label(file)))


def _read_npy(file: str) -> Arrays:
    import numpy as np

    return {ONLY: np.load(file, allow_pickle=False)}


def _read_npz(file: str) -> Arrays:
    import numpy as np

    found, objects = {}, []
    with open(file, "rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        for name in archive.files:
            try:
                found[name] = archive[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                objects.append(name)
    if objects:
        warn(f"{file}: leaves out arrays of Python objects: {', '.join(objects)}")
    return found


def _read_pt(file: str) -> Arrays:
    """A tensor, or a dict of which the tensors count, and labels that are a list of integers; nothing else is unpickled."""
    import torch

    content = load_pickled(file)
    if isinstance(content, torch.Tensor):
        return {ONLY: content}
    if not isinstance(content, Mapping):
        raise ArtifactError(f"{file}: holds a {type(content).__name__}, expected a tensor or a dict of tensors")
    entries = {str(name): values for name, values in content.items()}
    numbers = entries.get(LABELS)
    if isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers):
        entries[LABELS] = torch.tensor(numbers, dtype=torch.int64)
    others = sorted(name for name, values in entries.items() if not isinstance(values, torch.Tensor))
    if others:
        warn(f"{file}: leaves out entries that aren't tensors: {', '.join(others)}")
    return {name: values for name, values in entries.items() if name not in others}


def _read_csv(file: str) -> Arrays:
    """Numbers with commas, semicolons or tabs between them, with or without a line of names over them."""
    import numpy as np

    with open(file, encoding="utf-8-sig") as stream:
        line = stream.readline()
        first = line.strip().removeprefix("#")  # np.savetxt writes one before its header
        delimiter = next((one for one in (",", ";", "\t") if one in first), ",")
        names = _cells(first, delimiter)
        counted = len(names) > 1 and names == [str(column) for column in range(len(names))]
        if counted:
            warn(
                f"{file}: treats its first line (0 to {len(names) - 1}) as a header; if it is data, add a line of names above it"
            )
        cells = _cells(line.partition("#")[0], delimiter)
        header = counted or not all(map(_is_number, cells))  # "" is no number
        if header:
            _check_no_data(cells, file)
        rows = _rows_below(stream, file) if header else itertools.chain([line], _rows_below(stream, file))
        below = next(rows, None)
        if below is None:
            raise ArtifactError(f"{file}: holds no rows of numbers")
        if header:
            _check_no_names(names, _cells(below, delimiter), file)
        else:
            second = list(itertools.islice(rows, 1))
            _warn_of_whole_numbers(cells, _cells("".join(second), delimiter), file)
            rows = itertools.chain(second, rows)
        values = np.loadtxt(
            itertools.chain([below], rows), delimiter=delimiter, ndmin=2, encoding="utf-8-sig", quotechar='"'
        )
    found = _columns(values, names, file) if header else {ONLY: values}
    _warn_of_a_counter(found[ONLY], file)
    return found


def _check_no_data(names: Sequence[str], file: str) -> None:
    """ArtifactError for a first line that may be data with a word for a missing value in it, such as NA."""
    unnamed = _unnamed(names)
    words = [name for k, name in enumerate(names) if k not in unnamed and not _is_number(name)]
    words = [word for word in words if word.lower() not in LABEL_COLUMNS]
    missing = any(word.lower() in MISSING for word in words)
    numbers = [name for name in names if _is_number(name) and (missing or not _is_whole(name))]
    if words and numbers:
        raise ArtifactError(
            f"{file}: its first line holds {words[0]} beside {numbers[0]}: fill in missing numbers, or, if it names the columns, "
            "rename those that are numbers"
        )


def _warn_of_whole_numbers(first: Sequence[str], second: Sequence[str], file: str) -> None:
    """pandas writes the names of columns without names as numbers: a Series' as 0."""
    if all(map(_is_whole, first)) and (list(first) == ["0"] or not all(map(_is_whole, second))):
        some = ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
        warn(f"{file}: its first line ({some}) is used as data; if it names the columns, put letters in it")


def _counts(column: list[float]) -> bool:
    return any(column == list(range(start, start + len(column))) for start in (0, 1))


def _warn_of_a_counter(matrix: np.ndarray[Any, Any], file: str) -> None:
    """Two files that count their rows are alike, whatever else they hold."""
    first = matrix[:, 0].tolist()
    if len(first) > 2 and _counts(first):
        warn(
            f"{file}: its first column counts the rows, from {first[0]:g} to {first[-1]:g}, and is used as data; if it is "
            "not data, remove it, or name it Unnamed: 0"
        )


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.strip().split(delimiter)]


def _rows_below(stream: Iterable[str], file: str) -> Iterator[str]:
    """The lines below the first. ArtifactError for one without numbers, which np.loadtxt would skip, moving the rows below it."""
    without = None
    for number, line in enumerate(stream, start=2):
        if not line.partition("#")[0].strip():
            without = without or number
        elif without:
            raise ArtifactError(
                f"{file}: line {without} is blank or a comment, but rows are paired by their place: remove it, or fill it in"
            )
        else:
            yield line


def _columns(values: np.ndarray[Any, Any], names: list[str], file: str) -> Arrays:
    """The matrix and the labels of columns with names; a column without one, for which pandas reads and then writes Unnamed: 0,
    counts the rows.
    """
    if len(names) != values.shape[1]:
        raise ArtifactError(f"{file}: has {len(names)} names for {values.shape[1]} columns")
    labels = [k for k, name in enumerate(names) if name.lower() in LABEL_COLUMNS]
    index = _unnamed(names)
    if index:
        numbers = values[:, index[0]].tolist()
        if not _counts(numbers):
            raise _names_rows(names[index[0]], [f"{number:g}" for number in numbers[:SHOWN]], file)
        named = names[index[0]] or "without a name"
        warn(f"{file}: leaves out the column {named}, which counts the rows")
    matrix = [k for k in range(len(names)) if k not in (*labels, *index)]
    if len(labels) > 1 or not matrix:
        raise ArtifactError(f"{file}: expected columns of numbers and at most one of labels, got {', '.join(names)}")
    found: Arrays = {ONLY: values[:, matrix]}
    if labels:
        column = values[:, labels[0]]
        warn(f"{file}: takes column {names[labels[0]]} as the labels of the rows; rename it if it is data")
        if not ((column == column.round()) & (abs(column) < EXACT)).all():
            raise ArtifactError(f"{file}: labels in column {names[labels[0]]} are not integers, or beyond 2^53")
        found[LABELS] = column.astype("int64")
    return found


def _unnamed(names: Sequence[str]) -> list[int]:
    """The columns that pandas' index may be: without a name, or read and written again as Unnamed: 0."""
    return [k for k, name in enumerate(names) if not name or re.fullmatch(r"Unnamed: \d+", name)]


def _check_no_names(names: Sequence[str], cells: Sequence[str], file: str) -> None:
    """ArtifactError for text in the first row of an unnamed column."""
    for k in _unnamed(names):
        if k < len(cells) and not _is_number(cells[k]):
            raise _names_rows(names[k], [cells[k]], file)


def _names_rows(column: str, some: Sequence[str], file: str) -> ArtifactError:
    return ArtifactError(
        f"{file}: the column {column or 'without a name'} names the rows ({', '.join(some)}, ...), but rows are paired by their "
        "place: sort both files by it and remove it, or name it if it is data"
    )


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[str], Arrays]] = {
    ".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt, ".pth": _read_pt, ".csv": _read_csv, ".tsv": _read_csv,
}  # fmt: skip
