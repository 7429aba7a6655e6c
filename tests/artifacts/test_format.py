"""Files survive reading and writing, and notice every changed byte."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from forged import HEADERS, TINY
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fmtool
from fmtool.artifacts import schema
from fmtool.artifacts.files import describe, read
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.schema import FIELDS, TENSORS
from fmtool.errors import ArtifactError

DTYPES = {"F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}
RESERVED = {"kind", "schema", "digest", "history"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ZEROS = "0" * 64  # what stands in a digest's place while it is computed


def _fill(shape: list[int], dtype: torch.dtype, seed: int, order: str) -> torch.Tensor:
    """Random bits, every float among them (NaN too), in one of three memory layouts."""
    if order == "strided":
        shape = [2 * size for size in shape]
    numbers = np.random.default_rng(seed)
    if dtype == torch.bool:
        array = numbers.integers(0, 2, shape).astype(bool)
    else:
        kind = np.int64 if dtype == torch.int64 else np.float32
        array = np.frombuffer(numbers.bytes(int(np.prod(shape)) * kind().itemsize), kind).reshape(shape).copy()
    if order == "fortran":
        array = np.asfortranarray(array)
    tensor = torch.from_numpy(array)
    return tensor[tuple(slice(None, None, 2) for _ in shape)] if order == "strided" else tensor


@st.composite
def any_artifact(draw: st.DrawFn) -> Artifact:
    """A file of any kind, its tensors in the kind's layout, its header with more than the kind's fields."""
    kind = draw(st.sampled_from(sorted(TENSORS)))
    layout = dict(TENSORS[kind])
    names = st.text(min_size=1).filter(lambda name: name != "__metadata__")
    layout |= {name: "F32 n w" for name in draw(st.sets(names, max_size=3)) if not TENSORS[kind]}
    free = not TENSORS[kind]
    size = {axis: draw(st.integers(0 if free else 1, 3)) for axis in "nkchwrs"}
    tensors = {
        name: _fill([size[axis] for axis in axes], DTYPES[dtype], draw(st.integers(0, 99)), draw(st.sampled_from(ORDERS)))
        for name, (dtype, *axes) in ((name, text.split()) for name, text in layout.items())
    }  # fmt: skip
    taken = {*RESERVED, *FIELDS[kind], *schema.OPTIONAL_FIELDS.get(kind, {})}
    header = draw(st.dictionaries(st.text().filter(lambda name: name not in taken), JSON, max_size=3))
    return Artifact(
        kind, {**header, **HEADERS[kind]}, tensors, draw(st.lists(st.fixed_dictionaries(STAGE), max_size=2))
    )


STAGE = {
    "command": st.text(),
    "options": st.dictionaries(st.text(), JSON, max_size=2),
    "versions": st.dictionaries(st.text(), st.text(), max_size=2),
    "inputs": st.lists(st.fixed_dictionaries({"kind": st.text(), "digest": st.just("0" * 64)}), max_size=2),
}
ORDERS = ["contiguous", "fortran", "strided"]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bitwise, whatever the layout."""
    a, b = one.numpy(), other.numpy()
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(artifact=any_artifact())
@example(artifact=dataclasses.replace(TINY, header={**TINY.header, "columns": [ZEROS]}))
@example(artifact=dataclasses.replace(TINY, header={**TINY.header, "more": [f'"digest":"{ZEROS}"', "\\", '"', "\n"]}))
def test_every_kind_survives_a_round_trip(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.getbasetemp() / "round-trip.safetensors")
    digest = fmtool.write(artifact, path)
    found = fmtool.read(path, artifact.kind)
    assert (found.kind, found.header, found.history) == (artifact.kind, artifact.header, artifact.history)
    assert found.tensors.keys() == artifact.tensors.keys()
    assert all(_same(found[name], artifact[name]) for name in found.tensors)
    assert found.digest == artifact.digest == digest
    content = Path(path).read_bytes()
    assert fmtool.write(found, path) == digest and Path(path).read_bytes() == content


def test_header_is_one_entry_of_canonical_json(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    fmtool.write(TINY, str(path))
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert metadata.keys() == {"fmtool"}
    fields = json.loads(metadata["fmtool"])
    assert fields.keys() == {*TINY.header, *RESERVED}
    assert metadata["fmtool"] == json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_names_that_are_not_unicode_do_not_break_a_file(tmp_path: Path) -> None:
    """A folder's name may hold any bytes; Python passes those that are not UTF-8 as lone surrogates."""
    artifact = dataclasses.replace(TINY, header={**TINY.header, "rows": [os.fsdecode(b"caf\xe9")]})
    digest = fmtool.write(artifact, str(tmp_path / "file"))
    assert fmtool.read(str(tmp_path / "file")).digest == digest == artifact.digest


def test_every_single_changed_byte_of_a_small_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fmtool.write(TINY, str(path))
    content, numbers = path.read_bytes(), random.Random(0)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= numbers.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(ArtifactError):
            read(str(path))
    path.write_bytes(content)
    read(str(path))


@pytest.mark.parametrize("name", ["model", "fmn", "essential", "robust", "correlation", "defense"])
def test_changed_missing_and_added_bytes_of_every_kind_are_refused(name: str, files: Path, tmp_path: Path) -> None:
    content, numbers = (files / f"{name}.safetensors").read_bytes(), random.Random(0)
    damaged = [content[:-1], content[:-8], content[:100], content + b"\0", content + content, content[1:]]
    for _ in range(40):
        place = numbers.randrange(len(content))
        damaged.append(content[:place] + bytes([content[place] ^ 1 << numbers.randrange(8)]) + content[place + 1 :])
    for change in damaged:
        (tmp_path / "file").write_bytes(change)
        with pytest.raises(ArtifactError):
            describe(str(tmp_path / "file"))
