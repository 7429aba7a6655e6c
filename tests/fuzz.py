"""A mutation fuzzer: damaged and forged files of every kind, for every reader and every command that takes a file.

`python tests/fuzz.py --count 10000 --seed 0` prints the counts. Raw mutations change bytes: of our own files each must be
refused, by the digest or before it. Forged ones change what a file says and carry a digest that holds, so that they reach the
checks behind it: they end in one line or in a result. Foreign files (images, a matrix, checkpoints, a zip) have no digest.
Long, because what a mutation may do and what then has to be seen belong together.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import itertools
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_files
from PIL import Image
from safetensors.torch import load, save_file

import fmtool
from fmtool.__main__ import run_command
from fmtool.artifacts import files as artifacts
from fmtool.artifacts import streaming
from fmtool.artifacts.format import header_end, with_digest
from fmtool.errors import FmtoolError, FmtoolWarning

SECONDS = 60  # a file that takes longer hangs
MEMORY = 2**27  # bytes that one file of some 100 kB may cost beside torch and matplotlib; 31 MB were measured
SHARES = {True: 0.4, False: 0.05}  # of the files that the readers take, and refuse, that go to a command too
FEW = "--min-steps 1 --max-steps 2 --limit 4"
KINDS = {
    "model": "model", "fmn": "attack", "essential": "masks", "adversarial": "masks", "plain": "class-masks",
    "robust": "class-masks", "correlation": "correlation", "defense": "defense",
    "heatmap": "heatmap",
}  # fmt: skip
# kind -> command lines; BAD is the file, IN/NAME a good one, OUT the target
COMMANDS = {
    "model": [
        "attack BAD --data digits --limit 8 --attack-option steps=2 -o OUT",
        f"fit-masks BAD IN/fmn --for essential --allow-other-model {FEW} -o OUT",
        f"class-masks BAD IN/fmn --allow-other-model {FEW} -o OUT",
        "defend BAD IN/fmn IN/plain --allow-other-model -o OUT",
        "check-masks BAD IN/fmn IN/essential --allow-other-model --draws 1",
        "train-model --from BAD --data digits --limit 32 --epochs 1 -o OUT",
        "import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT",
        "heatmap BAD --data digits --limit 4 --filters -o OUT",
        "report BAD -o OUT",
    ],
    "attack": [
        f"fit-masks IN/model BAD --for essential {FEW} -o OUT",
        f"fit-masks IN/model BAD --for adversarial {FEW} -o OUT",
        f"class-masks IN/model BAD --robust {FEW} -o OUT",
        "defend IN/model BAD IN/plain -o OUT",
        "defend IN/model IN/fmn BAD IN/plain -o OUT",
        "check-masks IN/model BAD IN/essential --draws 1",
        "attack IN/model --data BAD --limit 8 --attack-option steps=2 -o OUT",
        "import-attack IN/model --data digits --limit 60 --adversarial BAD -o OUT",
        "merge BAD IN/fmn -o OUT",
        "inspect --spectrum BAD",
        "plot BAD -o OUT.png",
        "plot BAD IN/essential -o OUT.png",
        "report BAD -o OUT",
    ],
    "masks": [
        "correlate BAD IN/adversarial --permutations 3 -o OUT",
        "correlate IN/essential BAD --permutations 3 --statistics cosine,svcca -o OUT",
        "check-masks IN/model IN/fmn BAD --draws 1",
        "merge BAD IN/essential -o OUT",
        "inspect --spectrum BAD IN/essential",
        "plot BAD IN/essential -o OUT.png",
        "plot BAD --figure mean-mask -o OUT.png",
        "plot IN/fmn BAD -o OUT.png",
        "report BAD -o OUT",
    ],
    "class-masks": [
        "defend IN/model IN/fmn BAD -o OUT",
        "attack IN/model --data digits --limit 8 --restarts 1 --attack-option steps=2 --defense BAD -o OUT",
        "check-masks IN/model IN/fmn BAD --draws 1",
        "inspect --spectrum BAD",
        "plot BAD -o OUT.png",
        "plot BAD --figure mean-mask -o OUT.png",
        "report BAD -o OUT",
    ],
    "correlation": [
        "inspect BAD IN/correlation", "plot BAD -o OUT.png", "plot BAD --figure cosine -o OUT.png",
        "plot BAD --figure subsample -o OUT.png", "plot BAD --figure classes -o OUT.png", "report BAD -o OUT",
    ],
    "defense": ["inspect BAD IN/defense --format json", "plot BAD -o OUT.png", "report BAD -o OUT"],
    "heatmap": [
        "inspect BAD IN/heatmap", "plot BAD -o OUT.png", "plot BAD IN/fmn IN/essential IN/adversarial -o OUT.png",
        "merge BAD IN/heatmap -o OUT", "report BAD IN/fmn IN/essential IN/adversarial -o OUT",
    ],
    "images.safetensors": [
        "attack IN/model --data BAD --limit 8 --attack-option steps=2 -o OUT",
        "train-model --data BAD --architecture resnet8 --limit 16 --epochs 1 -o OUT",
        f"fit-masks IN/model --data BAD --for essential {FEW} -o OUT",
    ],
    "matrix.safetensors": ["correlate BAD BAD --permutations 3 --statistics svcca,cosine,idcor -o OUT"],
    "weights.safetensors": ["import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT"],
    "weights.pth": ["import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT"],
    "old.pth": ["import-model BAD --architecture resnet8 --input-shape 1,8,8 -o OUT"],
    "images.zip": ["train-model --data BAD --size 8 --architecture resnet8 --epochs 1 -o OUT"],
}  # fmt: skip
for lines in COMMANDS.values():
    lines += ["verify BAD IN/model"]
for kind in set(KINDS.values()):
    COMMANDS[kind] += ["inspect BAD --history"]
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


def seeds(folder: Path) -> dict[str, bytes]:
    """name -> content of the good files: those of the fixture `files`, and foreign ones that are added to the folder."""
    digits = fmtool.load_data("digits:test", limit=20)
    weights = load((folder / "model.safetensors").read_bytes())
    save_file({"images": digits.images, "labels": digits.labels}, folder / "images.safetensors")
    save_file({"matrix": torch.rand(30, 4, generator=torch.Generator().manual_seed(0))}, folder / "matrix.safetensors")
    save_file(weights, folder / "weights.safetensors")
    torch.save({"state_dict": weights}, folder / "weights.pth")
    torch.save({"state_dict": weights}, folder / "old.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for row, image in enumerate(digits.images[:6, 0]):
            content = io.BytesIO()
            Image.fromarray((image.numpy() * 255).astype(np.uint8)).save(
                content, format=("PNG", "JPEG", "TIFF")[row % 3]
            )
            archive.writestr(f"{row % 2}/{row}.{('png', 'jpg', 'tif')[row % 3]}", content.getvalue())
    return {
        **{name: (folder / f"{name}.safetensors").read_bytes() for name in KINDS},
        **{name: (folder / name).read_bytes() for name in COMMANDS if "." in name},
    }


# Raw mutations: bytes to bytes ---------------------------------------------------------------------------------------


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


# Forged files: another meaning under a digest that holds -------------------------------------------------------------


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


# What becomes of them ------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What the files ended in; `problems` are what must not be."""

    files: int = 0
    refused: int = 0
    ran: int = 0
    commands: int = 0
    slowest: float = 0.0
    slowest_line: str = ""
    most_memory: int = 0
    problems: list[str] = field(default_factory=list)


class Fuzzer:
    """Feeds mutated files to the readers and to `inspect`, and some of them, `SHARES`, to another command too."""

    def __init__(self, files: Path, work: Path) -> None:
        self.files, self.work = files, work
        self.counts = Counts()

    def feed(self, bad: Bad, numbers: random.Random) -> None:
        suffix = Path(bad.name).suffix or ".safetensors"
        path, target = self.work / f"bad{suffix}", self.work / "target"
        path.write_bytes(bad.content)
        target.mkdir(exist_ok=True)
        self.counts.files += 1
        began, before = time.monotonic(), _reset_peak()
        line = "the readers"
        try:
            with _limited():
                taken = "." in bad.name or self.read(bad, str(path))
                commands = ["inspect BAD"] if bad.name in KINDS else []
                if numbers.random() < SHARES[taken]:
                    commands.append(numbers.choice(COMMANDS[bad.kind]))
                codes = []
                for line in commands:
                    codes.append(self._command(line, path, target, taken, bad))
            self.counts.refused += not any(code == 0 for code in codes) if commands else not taken
            self.counts.ran += any(code == 0 for code in codes) if commands else taken
        except Exception:
            self._problem(bad, line, "".join(traceback.format_exc().splitlines(keepends=True)[-14:]))
        took, grown = time.monotonic() - began, _peak() - before
        if took > self.counts.slowest:
            self.counts.slowest, self.counts.slowest_line = took, line
        self.counts.most_memory = max(self.counts.most_memory, grown)
        if grown > MEMORY:
            self._problem(bad, line, f"took {grown / 2**20:.0f} MB of memory")

    def read(self, bad: Bad, path: str) -> bool:
        """Whether the readers take the file; all of them say the same."""
        answers = []
        by_rows = () if bad.kind == "model" else (streaming.read,)  # weights are never read by rows
        for read in (artifacts.describe, artifacts.read, *by_rows):
            try:
                read(path, bad.kind)
                answers.append(True)
            except FmtoolError as error:
                assert str(error).strip() and "Traceback" not in str(error)
                answers.append(False)
        assert len(set(answers)) == 1, f"the readers don't agree: {answers}"
        assert not (bad.refused and answers[0]), "a changed file was taken"
        return answers[0]

    def _command(self, line: str, path: Path, target: Path, taken: bool, bad: Bad) -> int:
        words = [
            word.replace("BAD", str(path)).replace("OUT", str(target / "result"))
            if not word.startswith("IN/") else f"{self.files / word[3:]}.safetensors"
            for word in line.split()
        ]  # fmt: skip
        self.counts.commands += 1
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(words)
        lines = [one for one in err.getvalue().splitlines() if not one.startswith("fmtool: warning: ")]
        if code:
            assert code == 1 and len(lines) == 1 and lines[0].startswith("fmtool: error: "), (code, err.getvalue())
            assert not list(target.iterdir()), f"left {list(target.iterdir())}"
        else:
            assert not lines, err.getvalue()
            assert taken or "--data BAD" in line or "import-model" in line, "a command took what the readers refuse"
            for file in target.iterdir():
                file.unlink()
        return code

    def _problem(self, bad: Bad, line: str, what: str) -> None:
        number = len(self.counts.problems)
        kept = self.work / f"problem-{number}-{bad.name}"
        kept.write_bytes(bad.content)
        shutil.rmtree(self.work / "target", ignore_errors=True)
        self.counts.problems.append(f"{kept.name}: {line}\n{what}")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """A file may neither hang nor warn in another way than by a line of ours."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("always", FmtoolWarning)
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> int:
    """Bytes in memory now; `_peak` counts from here, where the system lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(files: Path, work: Path, count: int, seed: int) -> Counts:
    """files: a folder of `make_files`; foreign files are added to it. work: an empty folder."""
    contents, fuzzer = seeds(files), Fuzzer(files, work)
    for number in range(count):
        numbers = random.Random(f"{seed} {number}")
        fuzzer.feed(mutated(contents, numbers), numbers)
    return fuzzer.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps the files behind problems")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files, work = Path(folder) / "files", options.work or Path(folder) / "work"
        files.mkdir()
        work.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make_files(files)
        found = fuzz(files, work, options.count, options.seed)
    for problem in found.problems:
        print(problem)
    print(
        f"{found.files} files: {found.refused} refused, {found.ran} ran, {len(found.problems)} problems; "
        f"{found.commands} commands; slowest {found.slowest:.1f} s ({found.slowest_line}); "
        f"most memory for one file {found.most_memory / 2**20:.0f} MB; "
        f"{time.monotonic() - began:.0f} s in all"
    )
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
