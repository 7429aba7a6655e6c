"""Mutations of files: changed bytes, and forged fields and tensors under a digest that holds (see `fuzz.py`)."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzz_commands import KINDS

from fmtool.artifacts.format import header_end, with_digest

HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e300, 1e308, float("nan"), float("inf"), "", "x", "\0",
    "é😀", "$x^$", "漢字",
    "\ud800", "\x1b[31m", "a\nb", "../../x", "x" * 10_000, "0" * 64, [], [[]], [0], [1, 8, 8], ["a"], [None] * 3, {}, {"": 0},
    {"kind": "model", "digest": "0" * 64}, [10**6, 10**6], [1, 2**20, 2**20],
]  # fmt: skip


DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F4", "C64", "I64", "I32", "U64", "U8", "BOOL", "X", "", 7]


@dataclass(frozen=True)
class Bad:
    """A mutated file: the name of what it was made from, its kind in `COMMANDS`, its bytes, whether it must be refused."""

    name: str
    kind: str
    content: bytes
    refused: bool


def _place(content: bytearray, numbers: random.Random) -> int:
    """Half of them in the header, where a byte says most."""
    head = min(len(content), 8 + int.from_bytes(content[:2], "little"))
    return numbers.randrange(head if numbers.random() < 0.5 else len(content))


def _flip(content: bytearray, numbers: random.Random) -> None:
    for _ in range(numbers.choice([1, 1, 2, 8])):
        content[_place(content, numbers)] ^= 1 << numbers.randrange(8)


def _truncate(content: bytearray, numbers: random.Random) -> None:
    del content[_place(content, numbers) :]


def _extend(content: bytearray, numbers: random.Random) -> None:
    content += numbers.choice([b"\0", b" " * 8, bytes(content[:64]), numbers.randbytes(numbers.randrange(1, 99))])


def _length(content: bytearray, numbers: random.Random) -> None:
    size = struct.unpack("<Q", content[:8])[0]
    wrong = numbers.choice([0, 1, size - 1, size + 1, size + 8, len(content), 2**31, 2**63, 2**64 - 1])
    content[:8] = struct.pack("<Q", wrong)


def _copy(content: bytearray, numbers: random.Random) -> None:
    start, to, count = _place(content, numbers), _place(content, numbers), numbers.choice([1, 8, 64, 1000])
    content[to : to + count] = content[start : start + count]


def _remove(content: bytearray, numbers: random.Random) -> None:
    start = _place(content, numbers)
    del content[start : start + numbers.choice([1, 2, 8, 100])]


def _digit(content: bytearray, numbers: random.Random) -> None:
    """Another number where one stands in the header: a lying shape or offset."""
    places = [at for at, one in enumerate(content[: 8 + int.from_bytes(content[:2], "little")]) if chr(one).isdigit()]
    if places:
        at = numbers.choice(places)
        content[at : at + 1] = numbers.choice([b"9", b"-1", b"1e9", b"99999999999", b"null", b"[1]", b"NaN"])


RAW: list[Callable[[bytearray, random.Random], None]] = [
    _flip,
    _flip,
    _truncate,
    _extend,
    _length,
    _copy,
    _remove,
    _digit,
]


def raw(name: str, content: bytes, numbers: random.Random) -> Bad:
    """Changed bytes; a change that changes nothing is no mutation and is tried again."""
    made = bytearray(content)
    while bytes(made) == content:
        numbers.choice(RAW)(made, numbers)
        if not made:
            break
    return Bad(name, KINDS.get(name, name), bytes(made), name in KINDS)


@dataclass
class Parts:
    """A safetensors file taken apart: our header's fields (None in a foreign file), the entries of tensors, their bytes."""

    meta: Any
    entries: dict[Any, Any]
    data: bytearray

    @classmethod
    def of(cls, content: bytes) -> Parts:
        end = header_end(content)
        entries = json.loads(content[8:end])
        text = entries.pop("__metadata__", {}).get("fmtool")
        return cls(json.loads(text) if text else None, entries, bytearray(content[end:]))

    def bytes(self) -> bytes:
        """The file, signed where it is ours."""
        head: dict[Any, Any] = dict(self.entries)
        if self.meta is not None:
            if isinstance(self.meta, dict) and "digest" in self.meta:
                self.meta["digest"] = "0" * 64
            head = {"__metadata__": {"fmtool": _json(self.meta)}, **head}
        text = _json(head, sort=False).encode(errors="replace")
        text += b" " * (-len(text) % 8)
        content = struct.pack("<Q", len(text)) + text + bytes(self.data)
        end = header_end(content)
        return with_digest(content[:end], hashlib.sha256(content).hexdigest()) + content[end:]


def _json(value: Any, sort: bool = True) -> str:
    try:
        return json.dumps(value, sort_keys=sort, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, RecursionError):
        return json.dumps(str(value)[:100])


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from _paths(one, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _some_path(tree: Any, numbers: random.Random) -> tuple[Any, ...]:
    """A field first, then a place below it: a long history or null does not hide the rest."""
    top = numbers.choice(list(tree))
    return numbers.choice([(top,), *((top, *path) for path in _paths(tree[top]))])


def _replace_field(parts: Parts, numbers: random.Random) -> None:
    path = _some_path(parts.meta, numbers)
    _at(parts.meta, path[:-1])[path[-1]] = copy.deepcopy(numbers.choice(HOSTILE))


def _drop_field(parts: Parts, numbers: random.Random) -> None:
    path = _some_path(parts.meta, numbers)
    del _at(parts.meta, path[:-1])[path[-1]]


def _swap_fields(parts: Parts, numbers: random.Random) -> None:
    paths = [_some_path(parts.meta, numbers) for _ in range(2)]
    _at(parts.meta, paths[0][:-1])[paths[0][-1]] = copy.deepcopy(_at(parts.meta, paths[1]))


def _nudge_number(parts: Parts, numbers: random.Random) -> None:
    paths = [path for path in _paths(parts.meta) if isinstance(_at(parts.meta, path), int | float)]
    if paths:
        path = numbers.choice(paths)
        _at(parts.meta, path[:-1])[path[-1]] = numbers.choice([0, 1, -1, 2, 7, 1000, 2**40, 0.0, -0.5, 1e-320, 1e30])


def _grow_list(parts: Parts, numbers: random.Random) -> None:
    lists = [path for path in _paths(parts.meta) if isinstance(_at(parts.meta, path), list)]
    if lists:
        found = _at(parts.meta, numbers.choice(lists))
        found.extend(copy.deepcopy(found) * numbers.choice([1, 1, 50]) or [copy.deepcopy(numbers.choice(HOSTILE))])
        found[: numbers.choice([0, 0, 1])] = []


def _more_fields(parts: Parts, numbers: random.Random) -> None:
    name = numbers.choice(
        ["defense", "curves", "perturb", "worst", "clean_drop", "dimension", "shard", "", "\0", "x" * 999, "é"]
    )
    parts.meta[name] = copy.deepcopy(numbers.choice(HOSTILE))


def _deep(parts: Parts, numbers: random.Random) -> None:
    """Nested beyond what a parser takes, or a chain of stages, each made from the one before."""
    if numbers.random() < 0.5:
        parts.meta["history"] = _chain(numbers.choice([3, 300, 3000]))
        return
    nested: Any = 0
    for _ in range(numbers.choice([50, 500, 900])):
        nested = [nested] if numbers.random() < 0.5 else {"x": nested}
    _at(parts.meta, (path := _some_path(parts.meta, numbers))[:-1])[path[-1]] = nested


def _chain(count: int) -> list[dict[str, Any]]:
    names = [f"{number:064}" for number in range(count + 1)]
    return [
        {
            "command": "merge",
            "options": {},
            "versions": {},
            "inputs": [{"kind": "masks", "digest": one}],
            "output": other,
        }
        for one, other in itertools.pairwise(names)
    ]


def _lie(parts: Parts, numbers: random.Random) -> None:
    """A tensor's entry says something else than its bytes."""
    name = numbers.choice(list(parts.entries))
    entry = parts.entries[name]
    where = numbers.choice(["dtype", "shape", "data_offsets", "axis", "name", "gone", "extra", "swap"])
    if where == "axis" and entry["shape"]:
        entry["shape"][numbers.randrange(len(entry["shape"]))] = numbers.choice(
            [0, 1, 2**31, 2**62, 2**64 - 1, -1, 1.5, None]
        )
    elif where == "name":
        parts.entries[numbers.choice(["", "\0", "x" * 5000, "é😀", "__metadata__", "labels", name + "\n"])] = (
            parts.entries.pop(name)
        )
    elif where == "gone":
        del parts.entries[name]
    elif where == "swap":
        other = numbers.choice(list(parts.entries))
        parts.entries[name], parts.entries[other] = parts.entries[other], parts.entries[name]
    elif where == "extra":
        shape = numbers.choice([[0], [0, 2**40], [2**40, 0]])
        parts.entries["more"] = {"dtype": numbers.choice(DTYPES), "shape": shape, "data_offsets": [len(parts.data)] * 2}
    elif where == "dtype":
        entry["dtype"] = numbers.choice(DTYPES)
    else:
        entry[where] = numbers.choice(
            [None, [], [0], [0, 0], [0, 2**62], [-1, 0], [2**40, 2**41], "x", [[0]], [0, 8], [8, 0]]
        )


def _values(parts: Parts, numbers: random.Random) -> None:
    """Impossible numbers in a tensor, all of it or one."""
    name = numbers.choice(list(parts.entries))
    entry = parts.entries[name]
    start, end = entry["data_offsets"]
    kinds = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "BOOL": np.uint8, "U8": np.uint8}
    values = np.frombuffer(parts.data[start:end], kinds[entry["dtype"]]).copy()
    if not len(values):
        return
    if values.dtype.kind == "f":
        hostile = [np.nan, np.inf, -np.inf, -1, 0, 1, 2, 1e-45, 3e38]
    elif values.dtype == np.int64:
        hostile = [0, 1, 2, 3, 9, 10, -1, 2**31, 2**63 - 1, -(2**63)]
    else:
        hostile = [0, 1, 2, 255]
    values[... if numbers.random() < 0.5 else numbers.randrange(len(values))] = numbers.choice(hostile)
    parts.data[start:end] = values.tobytes()


def _rows(parts: Parts, numbers: random.Random) -> None:
    """Fewer rows in every tensor, or in one: none, one, two, or the first one several times."""
    sizes = Counter(entry["shape"][0] for entry in parts.entries.values() if entry["shape"])
    if not sizes:
        return
    n, many = sizes.most_common(1)[0][0], numbers.choice([0, 1, 2, 3])
    chosen = [name for name, entry in parts.entries.items() if entry["shape"][:1] == [n]]
    chosen = chosen if numbers.random() < 0.8 else chosen[:1]
    data, twice = bytearray(), numbers.random() < 0.3
    for name, entry in sorted(parts.entries.items(), key=lambda one: one[1]["data_offsets"]):
        part = parts.data[slice(*entry["data_offsets"])]
        if name in chosen and n:
            row = len(part) // n
            part, entry["shape"][0] = (part[:row] * many if twice else part[: row * many]), many
        entry["data_offsets"] = [len(data), len(data) + len(part)]
        data += part
    parts.data = data


HEADER = [
    _replace_field,
    _replace_field,
    _drop_field,
    _swap_fields,
    _nudge_number,
    _nudge_number,
    _grow_list,
    _more_fields,
    _deep,
]


TENSORS = [_lie, _values, _values, _rows]


def forged(name: str, content: bytes, numbers: random.Random) -> Bad:
    """One change of meaning or two; what changes nothing is tried again."""
    made = content
    while made == content:
        parts = Parts.of(content)
        for _ in range(numbers.choice([1, 1, 1, 2])):
            # the first may have left nothing to change, or something too deep to copy
            with contextlib.suppress(KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError):
                numbers.choice([*HEADER, *TENSORS] if parts.meta is not None else TENSORS)(parts, numbers)
        made = parts.bytes()
    return Bad(name, KINDS.get(name, name), made, False)


def mutated(contents: dict[str, bytes], numbers: random.Random) -> Bad:
    """A third raw, the rest forged where the format can be."""
    name = numbers.choice(list(contents))
    make = raw if numbers.random() < 1 / 3 or name.endswith((".pth", ".zip")) else forged
    return make(name, contents[name], numbers)
