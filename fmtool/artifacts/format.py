"""The file format: every stage's result is one safetensors file with its provenance in the header.

The metadata of a file has a single entry, `fmtool`: canonical JSON with `kind`, `schema`, `digest`, `history` and the fields of
the kind. A single entry, because safetensors writes several in random order and the same command must give the same bytes.
`digest` is the sha256 of the whole file with the digest's own 64 characters set to 0, so that any changed byte is detected.

Reading a header imports neither torch nor any other slow library.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fmtool.artifacts.schema import FIELDS, FRAME, OPTIONAL_TENSORS, TENSORS, WEIGHTS, damaged
from fmtool.errors import ArtifactError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Buffer = bytes | bytearray | memoryview

SCHEMA = 2  # 1 recorded options in histories under names other than the command line's
SCHEMAS_READ = (1, SCHEMA)
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "U8": 1, "BOOL": 1}  # bytes, of the dtypes that are written row by row
METADATA_KEY = "fmtool"
LARGEST_HEADER = 100_000_000  # bytes, the library's own limit
_BLANK = b'\\"digest\\":\\"' + b"0" * 64  # as it stands in the file, with the key: a name may be 64 zeros too


class Rows(Protocol):
    """Rows (n, ...), such as images (n, c, h, w), to be read a few at a time: a tensor, or a tensor in a file."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Tensor:
        """rows: a number, a slice or a tensor of numbers."""


class TensorsByRow(Mapping[str, "Tensor"]):
    """Tensors that are read only when asked for: whole by `[name]`, a few rows at a time through `rows(name)`."""

    def rows(self, name: str) -> Rows:
        raise NotImplementedError


@dataclass(frozen=True)
class Artifact:
    """A stage's result. `tensors` are on the CPU; `header` holds the fields of the kind, ready for JSON.

    name: where it was read from, for messages; not stored. stored_digest: that of the file it was read from or written to; a
    modified copy (`dataclasses.replace`) has none and computes its own.
    """

    kind: str
    header: dict[str, Any]
    tensors: Mapping[str, Tensor]
    history: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""
    stored_digest: InitVar[str | None] = None
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self, stored_digest: str | None) -> None:
        object.__setattr__(self, "_digest", stored_digest)

    def __getitem__(self, tensor: str) -> Tensor:
        return self.tensors[tensor]

    def rows(self, tensor: str) -> Rows:
        """The rows of a tensor; those of a tensor in a file (`streaming`) are read on demand."""
        return self.tensors.rows(tensor) if isinstance(self.tensors, TensorsByRow) else self.tensors[tensor]

    @property
    def digest(self) -> str:
        """sha256 of the file that holds this artifact, in hexadecimal; computed once if there is no such file."""
        if self._digest is None:
            object.__setattr__(self, "_digest", serialise(self)[1])
        assert self._digest is not None
        return self._digest

    def input_digest(self, kind: str) -> str | None:
        """The digest of the newest stage's input of this kind, skipping stages without one, such as `merge` for models."""
        named = (entry for stage in reversed(self.history) for entry in stage["inputs"])
        return next((entry["digest"] for entry in named if entry["kind"] == kind), None)

    def expect(self, *kinds: str) -> None:
        """ArtifactError unless it is of one of these kinds."""
        if self.kind not in kinds:
            raise ArtifactError(f"{self}: expected {_wanted(kinds)} file, got one of kind {self.kind}")

    def __str__(self) -> str:
        return self.name or f"the {self.kind} artifact"


def _wanted(kinds: Sequence[str]) -> str:
    return f"a{'n' if kinds[:1] == ('attack',) else ''} {' or '.join(kinds) or 'fmtool'}"


@dataclass(frozen=True)
class Description:
    """A file's header, read without torch unless the file is large. shapes: tensor name -> (dtype, shape)."""

    kind: str
    header: dict[str, Any]
    history: list[dict[str, Any]]
    digest: str
    shapes: dict[str, tuple[str, tuple[int, ...]]]
    offsets: dict[str, int]  # of the tensors' first bytes, from the end of the header
    schema: int = SCHEMA
    data: bytes = b""
    in_file: Mapping[str, Rows] | None = None  # the tensors of a large file, which has no `data` in memory

    def arrays(self) -> dict[str, Any]:
        """The tensors as `arrays_of` gives them; none of a model, whose weights may have a dtype that NumPy does not know."""
        from safetensors.numpy import load

        if self.kind == "model":
            return {}
        return load(self.data) if self.in_file is None else arrays_of(self.in_file)


def arrays_of(tensors: Mapping[str, Rows]) -> dict[str, Any]:
    """Tensors as NumPy arrays, for tables; of those that lie in a file, images and masks stay there, as rows."""
    from torch import Tensor

    arrays: dict[str, Any] = {}
    for name, rows in tensors.items():
        if not isinstance(rows, Tensor) and len(rows.shape) == 1:
            rows = rows[:]
        arrays[name] = rows.numpy() if isinstance(rows, Tensor) else rows
    return arrays


def serialise(artifact: Artifact) -> tuple[bytes, str]:
    """The file's bytes and its digest. ValueError for NaN in the header, which JSON cannot hold."""
    from safetensors.torch import save

    # safetensors takes contiguous tensors on the CPU only
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in artifact.tensors.items()}
    text = _metadata(artifact.kind, artifact.header, artifact.history)
    data = save(tensors, metadata={METADATA_KEY: text})
    digest = hashlib.sha256(data).hexdigest()
    end = header_end(data)
    return with_digest(data[:end], digest) + data[end:], digest


def serialise_header(
    kind: str,
    header: Mapping[str, Any],
    history: list[dict[str, Any]],
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
) -> bytes:
    """The first bytes of the same file, up to its tensors, with the digest left blank, laid out as the library does."""
    entries: dict[str, Any] = {"__metadata__": {METADATA_KEY: _metadata(kind, header, history)}}
    for name, start in offsets_of(shapes).items():
        dtype, shape = shapes[name]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + _bytes_of(dtype, shape)]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def offsets_of(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    """Where each tensor starts: the widest dtypes first, then by name, as the library orders them."""
    offsets, start = {}, 0
    for name in sorted(shapes, key=lambda name: (-WIDTHS[shapes[name][0]], name)):
        offsets[name] = start
        start += _bytes_of(*shapes[name])
    return offsets


def with_digest(head: bytes, digest: str) -> bytes:
    """The first bytes of a file with the digest in its place."""
    return head.replace(_BLANK, _filled(digest), 1)


def _metadata(kind: str, header: Mapping[str, Any], history: list[dict[str, Any]]) -> str:
    meta = {**header, "kind": kind, "schema": SCHEMA, "digest": "0" * 64, "history": history}
    return _canonical(meta).encode(errors="replace").decode()  # names of files may hold bytes that are not UTF-8


def _canonical(meta: Mapping[str, Any]) -> str:
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=plain)


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, which callers from Python may pass, as Python's; other values as they are."""
    return value.tolist() if type(value).__module__ == "numpy" else value


def _bytes_of(dtype: str, shape: Sequence[int]) -> int:
    return WIDTHS[dtype] * math.prod(shape)


def tensors_in(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose layout was checked."""
    from safetensors.torch import load

    try:
        return load(data)
    except KeyError as error:
        raise ArtifactError(f"{name}: holds a tensor of type {error}, which torch does not support") from None
    except (TypeError, RuntimeError) as error:  # an empty tensor with an axis too long for torch
        raise not_whole(name, error) from None


def describe_header(head: bytes, rest: Iterable[Buffer], name: str, *kinds: str) -> Description:
    """Parse a file's first bytes, up to its tensors; `rest` is what follows, for the digest."""
    entries = json.loads(head[8:])
    text = _text_of(entries.pop("__metadata__", None))
    wanted = _wanted(kinds)
    if text is None:
        raise ArtifactError(f"{name}: expected {wanted} file, got a safetensors file that fmtool did not write")
    meta = _parse_meta(text, name)
    kind, schema, digest = (meta.pop(field) for field in ("kind", "schema", "digest"))
    _check_digest(head, rest, str(digest), name)
    if kinds and kind not in kinds:
        raise ArtifactError(f"{name}: expected {wanted} file, got a file of kind {kind}")
    shapes = {key: (str(entry["dtype"]), tuple(entry["shape"])) for key, entry in entries.items()}
    offsets = {key: int(entry["data_offsets"][0]) for key, entry in entries.items()}
    history = meta.pop("history")
    _check_kind(kind, meta, shapes, name)
    return Description(kind, meta, history, digest, shapes, offsets, schema)


def parse_header(data: bytes, name: str) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file's size and, if fmtool wrote the file, its digest."""
    check_layout(data, name)
    end = header_end(data)
    header: dict[str, Any] = json.loads(data[8:end])
    text = _text_of(header.get("__metadata__"))
    if text is not None:
        _check_digest(data[:end], [memoryview(data)[end:]], str(_parse_meta(text, name)["digest"]), name)
    return header


def check_layout(data: bytes, name: str) -> None:
    """ArtifactError unless the bytes are a complete safetensors file with a readable header."""
    from safetensors import SafetensorError, deserialize

    try:
        deserialize(data)  # type: ignore[no-untyped-call]
        assert isinstance(json.loads(data[8 : header_end(data)]), dict)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise not_whole(name, error) from None


def not_whole(name: str, error: BaseException) -> ArtifactError:
    """The error to raise for the library's complaint about a file."""
    reason = first_line(error).removeprefix("Error while deserializing: ")
    return ArtifactError(f"{name}: not a complete safetensors file ({reason})")


def _text_of(metadata: dict[str, str] | None) -> str | None:
    """The entry `fmtool` of a header's metadata, which may be null."""
    return (metadata or {}).get(METADATA_KEY)


def _parse_meta(text: str, name: str) -> dict[str, Any]:
    """The fields, which must be canonical JSON as `_metadata` writes it: no NaN, no duplicate names, no lone surrogates."""
    try:
        meta: dict[str, Any] = json.loads(text)
        canonical = (
            isinstance(meta, dict) and meta.keys() >= FRAME.keys() and _canonical(meta).encode() == text.encode()
        )
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise ArtifactError(f"{name}: its fmtool header is damaged")
    if meta["schema"] not in SCHEMAS_READ:
        known = " and ".join(map(str, SCHEMAS_READ))
        raise ArtifactError(f"{name}: written by another version of fmtool (this one reads schema {known})")
    wrong = [key for key, check in FRAME.items() if not check(meta[key])]
    if wrong:
        raise ArtifactError(f"{name}: its fmtool header is damaged ({wrong[0]})")
    return meta


def _check_digest(head: bytes, rest: Iterable[Buffer], digest: str, name: str) -> None:
    content = hashlib.sha256(head.replace(_filled(digest), _BLANK, 1))
    for part in rest:
        content.update(part)
    if content.hexdigest() != digest:
        raise ArtifactError(f"{name}: the content does not match its digest: it was changed or damaged")


def _check_kind(
    kind: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[str, tuple[int, ...]]], name: str
) -> None:
    """ArtifactError unless fields, tensors, dtypes and axes are those of the kind."""
    if kind not in TENSORS:
        raise ArtifactError(f"{name}: unknown kind {kind!r}, expected one of {', '.join(sorted(TENSORS))}")
    missing = [key for key in FIELDS[kind] if key not in meta] + [key for key in TENSORS[kind] if key not in shapes]
    if missing:
        raise ArtifactError(f"{name}: a file of kind {kind} needs {', '.join(missing)}")
    wrong = damaged(kind, meta)
    if wrong:
        raise ArtifactError(f"{name}: its {kind} header is damaged ({', '.join(wrong)})")
    known = [*WIDTHS, *(WEIGHTS if kind == "model" else ())]
    for tensor, (dtype, _) in shapes.items():
        if dtype not in known:
            raise ArtifactError(f"{name}: tensor {tensor} is {dtype}, expected one of {', '.join(known)}")
    sizes: dict[str, int] = {}
    optional = {name: layout for name, layout in OPTIONAL_TENSORS.get(kind, {}).items() if name in shapes}
    for tensor, layout in {**TENSORS[kind], **optional}.items():
        expected, *axes = layout.split()
        dtype, shape = shapes[tensor]
        if (
            dtype != expected
            or len(shape) != len(axes)
            or any(size < 1 or sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True))
        ):
            raise ArtifactError(
                f"{name}: tensor {tensor} is {dtype} {list(shape)}, expected {expected} ({', '.join(axes)})"
            )


def _filled(digest: str) -> bytes:
    """What replaces `_BLANK` once the digest is known."""
    return _BLANK[:-64] + digest.encode(errors="replace")


def header_end(data: bytes) -> int:
    """How many bytes of a safetensors file lie before its first tensor: the length and the JSON header."""
    return 8 + int(struct.unpack("<Q", data[:8])[0])
