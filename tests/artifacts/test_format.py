"""Files survive reading and writing, notice every changed byte, name all that led to them, and are replaced whole."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pty
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from forged import HEADERS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import fmtool
from fmtool.__main__ import run as run_command
from fmtool.artifacts import schema
from fmtool.artifacts.files import describe, read
from fmtool.artifacts.format import Artifact, serialise
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
TINY = Artifact("defense", {**HEADERS["defense"], "rows": ["ä"]}, {
    name: torch.ones(1, dtype=torch.int64) for name in TENSORS["defense"]
})  # fmt: skip


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
    taken = {*RESERVED, *FIELDS[kind], *schema.OTHERS.get(kind, {})}
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


def test_any_safetensors_reader_sees_the_same_tensors(files: Path) -> None:
    path = files / "essential.safetensors"
    plain, ours, described = load_file(path), fmtool.read(str(path)), describe(str(path))
    assert plain.keys() == ours.tensors.keys() == described.shapes.keys()
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    assert all(np.array_equal(plain[name].numpy(), array) for name, array in described.arrays().items())


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


@pytest.mark.parametrize("kind", [kind for kind in TENSORS if TENSORS[kind]])
def test_tensor_of_another_dtype_or_shape_or_a_missing_one_is_refused(kind: str, tmp_path: Path) -> None:
    good = {
        name: torch.zeros([2 for _ in axes], dtype=DTYPES[dtype])  # 2 columns of an image are 2 of its half spectrum
        for name, (dtype, *axes) in ((name, text.split()) for name, text in TENSORS[kind].items())
    }
    artifact, path = Artifact(kind, HEADERS[kind], good), str(tmp_path / "file")
    fmtool.write(artifact, path)
    fmtool.read(path)
    for name, tensor in good.items():
        for wrong in (tensor.to(torch.float64), tensor[..., None], torch.cat([tensor, tensor])):
            fmtool.write(dataclasses.replace(artifact, tensors={**good, name: wrong}), path)
            with pytest.raises(ArtifactError, match=r"tensor \w+ is .* expected"):
                fmtool.read(path)
        fmtool.write(dataclasses.replace(artifact, tensors={key: good[key] for key in good if key != name}), path)
        with pytest.raises(ArtifactError, match=f"a file of kind {kind} needs {name}"):
            fmtool.read(path)
    for field in FIELDS[kind]:
        header = {key: value for key, value in HEADERS[kind].items() if key != field}
        fmtool.write(dataclasses.replace(artifact, header=header), path)
        with pytest.raises(ArtifactError, match=f"a file of kind {kind} needs {field}"):
            fmtool.read(path)
        for wrong in ([[]], {"": [1]}, 10**400):
            fmtool.write(dataclasses.replace(artifact, header={**header, field: wrong}), path)
            with pytest.raises(ArtifactError, match=f"its {kind} header is damaged \\({field}\\)"):
                fmtool.read(path)


@pytest.mark.parametrize("more", [{"clean_drop": []}, {"worst": []}, {"rows": []}, {"columns": ["none", "none"]}])
def test_a_defences_table_is_as_wide_and_high_as_its_headings(more: dict[str, object], tmp_path: Path) -> None:
    rows = {name: torch.zeros(1, dtype=torch.int64) for name in TENSORS["defense"]}
    fmtool.write(Artifact("defense", {**HEADERS["defense"], **more}, rows), str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match=r"its defense header is damaged \(matrix\)"):
        fmtool.read(str(tmp_path / "file"))


@pytest.mark.parametrize("names", [["svcca", "svcca"], ["SVCCA"], ["n null"], [""], [3]])
def test_a_statistic_has_a_name_that_tensors_and_headings_can_bear(names: list[object], tmp_path: Path) -> None:
    """A name that this version doesn't know is none of it: the record is what is checked."""
    header = HEADERS["correlation"]
    (record,) = header["statistics"]
    fmtool.write(
        Artifact("correlation", {**header, "statistics": [{**record, "name": "newer"}]}, {}), str(tmp_path / "a")
    )
    assert fmtool.read(str(tmp_path / "a")).header["statistics"][0]["name"] == "newer"
    damaged = {**header, "statistics": [{**record, "name": name} for name in names]}
    fmtool.write(Artifact("correlation", damaged, {}), str(tmp_path / "b"))
    with pytest.raises(ArtifactError, match=r"its correlation header is damaged \(statistics\)"):
        fmtool.read(str(tmp_path / "b"))


# The same commands twice, in two processes and folders --------------------------------------------------------------

STAGES = {
    "model": "train-model --data digits --architecture resnet8 --epochs 1 --limit 64 --recipe one-cycle --augment crop",
    "imported": "import-model resnet8 --weights IN/model --input-shape 1,8,8 --keep-classes 3,1,2 --mean 0.5 --std 0.5",
    "head": "train-model --data digits --from IN/model --head-only --epochs 1 --limit 64",
    "pgd": "attack IN/model --data digits --limit 40 --attack pgd --epsilon 0.3 --attack-option steps=3 --seed 1",
    "essential": "fit-masks IN/model IN/pgd --for essential --min-steps 3 --max-steps 5 --lambda 0.1",
    "adversarial": "fit-masks IN/model IN/pgd --for adversarial --min-steps 3 --max-steps 5 --lambda 0.1",
    "correlation": "correlate IN/essential IN/essential --permutations 9 --statistics svcca,cosine",
    "plain": "class-masks IN/model --data digits --limit 40 --min-steps 3 --max-steps 5",
    "robust": "class-masks IN/model IN/pgd --robust --min-steps 3 --max-steps 5",
    "defense": "defend IN/model IN/pgd IN/plain IN/robust",
    "picture": "plot IN/essential --count 3",
}


def _lines(folder: Path) -> list[list[str]]:
    """The stages' arguments with their files in `folder`."""
    lines = []
    for name, line in STAGES.items():
        target = f"{folder}/{name}{'.png' if name == 'picture' else '.safetensors'}"
        words = [f"{folder}/{word[3:]}.safetensors" if word.startswith("IN/") else word for word in line.split()]
        lines.append([*words, "--quiet", "-o", target])
    return lines


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders, one filled in this process and one in another that orders its sets otherwise."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    assert [run_command(words) for words in _lines(here)] == [0] * len(STAGES)
    code = f"import fmtool.__main__ as m; print([m.run(words) for words in {_lines(there)!r}])"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Chatham", "LC_ALL": "C"}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, cwd=there, stdout=subprocess.DEVNULL, timeout=200
    )
    return here, there


@pytest.mark.processes
@pytest.mark.parametrize("name", STAGES)
def test_same_command_twice_gives_the_same_bytes(name: str, twice: tuple[Path, Path]) -> None:
    file = f"{name}.png" if name == "picture" else f"{name}.safetensors"
    assert (twice[0] / file).read_bytes() == (twice[1] / file).read_bytes()


@pytest.mark.processes
def test_another_seed_gives_another_file(twice: tuple[Path, Path], tmp_path: Path) -> None:
    words = [word if word != "1" else "2" for word in _lines(twice[0])[list(STAGES).index("pgd")][:-1]]
    assert run_command([*words, str(tmp_path / "pgd")]) == 0
    assert not torch.equal(
        fmtool.read(str(tmp_path / "pgd"))["adversarial"], fmtool.read(str(twice[0] / "pgd.safetensors"))["adversarial"]
    )


@pytest.mark.processes
def test_history_names_every_stage_and_the_digest_of_every_input(twice: tuple[Path, Path]) -> None:
    folder = twice[0]
    made = {name: describe(str(folder / f"{name}.safetensors")) for name in STAGES if name != "picture"}
    history = made["defense"].history
    assert [stage["command"] for stage in history] == ["train-model", "attack", "class-masks", "class-masks", "defend"]
    outputs = [made[name].digest for name in ("model", "pgd", "plain", "robust")]
    assert [stage.get("output") for stage in history] == [*outputs, None]
    assert [entry["digest"] for entry in history[-1]["inputs"]] == outputs
    digits = {split: fmtool.load_data(f"digits:{split}") for split in ("train", "test")}
    train, attack, plain, robust, _ = ([entry["digest"] for entry in stage["inputs"]] for stage in history)
    assert train == [fmtool.load_data("digits:train", limit=64).digest, digits["test"].digest]
    assert attack == [made["model"].digest, fmtool.load_data("digits:test", limit=40).digest]
    assert plain == [made["model"].digest, fmtool.load_data("digits:train", limit=40).digest]
    assert robust == [made["model"].digest, made["pgd"].digest]
    assert [entry["kind"] for entry in history[2]["inputs"]] == ["model", "data"]
    assert history[1]["seed"] == 1 and history[1]["options"]["--epsilon"] == 0.3
    assert history[1]["options"]["--attack-option"]["steps"] == 3
    for stage in history:
        assert stage["versions"].keys() == {"fmtool", "torch", "foolbox"}
    assert [stage["command"] for stage in made["correlation"].history] == [
        "train-model", "attack", "fit-masks", "correlate",
    ]  # fmt: skip


# Where files go ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_files_are_written_with_the_users_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        fmtool.write(TINY, str(tmp_path / "file"))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for content in (
        TINY,
        dataclasses.replace(TINY, header={**TINY.header, "n": 2}),
    ):  # a dangling link, then a good one
        digest = fmtool.write(content, str(tmp_path / "link"))
        assert (tmp_path / "link").is_symlink()
        assert describe(str(tmp_path / "real" / "file")).digest == digest
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "real"]


def test_named_pipes_are_written_directly(tmp_path: Path) -> None:
    fifo, found = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    fmtool.write(TINY, str(fifo))
    reader.join(timeout=20)
    assert found == [serialise(TINY)[0]]
    assert fifo.is_fifo() and list(tmp_path.iterdir()) == [fifo]


@pytest.mark.processes
@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/proc/self/fd/1"])
@pytest.mark.parametrize("through", ["pipe", "file"])
def test_standard_output_is_written_directly(target: str, through: str, tmp_path: Path) -> None:
    code = f"from fmtool.artifacts import output; output.check_target({target!r}); output.write_bytes(b'content', {target!r})"
    if through == "pipe":
        assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"content"
    else:
        with open(tmp_path / "out", "wb") as out:
            subprocess.run([sys.executable, "-c", code], check=True, stdout=out)
        assert (tmp_path / "out").read_bytes() == b"content"
        assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, seen, replace = tmp_path / "file", [], os.replace
    target.write_bytes(b"old")

    def watched(source: Path, destination: Path) -> None:
        seen.append((Path(source).parent, Path(source).read_bytes(), target.read_bytes()))
        replace(source, destination)

    monkeypatch.setattr(os, "replace", watched)
    fmtool.write(TINY, str(target))
    new = serialise(TINY)[0]
    assert seen == [(tmp_path, new, b"old")] and target.read_bytes() == new


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_writing_fails(
    broken: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(ArtifactError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        fmtool.write(TINY, str(target))
    if isinstance(error, OSError):
        assert str(caught.value) == f"{target}: can't be written: No space left on device"
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"old"


def test_full_device_is_told() -> None:
    with pytest.raises(ArtifactError, match="/dev/full: can't be written: No space left"):
        fmtool.write(TINY, "/dev/full")


# Standard input ------------------------------------------------------------------------------------------------------


def _inspect(stdin: int | None = None, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fmtool", "inspect", "-"], stdin=stdin, input=content, capture_output=True, timeout=60
    )


@pytest.mark.processes
def test_standard_input_is_read_for_a_dash(files: Path) -> None:
    found = _inspect(content=(files / "defense.safetensors").read_bytes())
    assert found.returncode == 0 and found.stderr == b""
    assert found.stdout.startswith(b"standard input: kind defense, schema 2, digest ")


@pytest.mark.processes
def test_empty_standard_input_is_told() -> None:
    found = _inspect(content=b"")
    assert found.returncode == 1 and found.stdout == b""
    assert found.stderr.startswith(b"fmtool: error: standard input is empty: expected a file")


@pytest.mark.processes
def test_terminal_is_not_waited_for() -> None:
    ours, theirs = pty.openpty()
    try:
        found = _inspect(stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert found.returncode == 1 and found.stdout == b""
    assert found.stderr.startswith(b"fmtool: error: standard input is a terminal: expected a file")
