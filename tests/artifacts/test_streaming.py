"""Artifacts a few rows at a time: the library's own bytes, rows by number, streams, and what is left after an error."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run

import fmtool
from fmtool.artifacts import streaming
from fmtool.artifacts.files import describe
from fmtool.artifacts.format import Artifact, offsets_of, serialise
from fmtool.artifacts.schema import TENSORS
from fmtool.artifacts.streaming import FileRows, new_artifact
from fmtool.errors import ArtifactError

HEADER = {"attack": "fmn", "options": {"ü": 'a "quote"'}, "class_names": ["é", "b\n"], "data": []}
HISTORY: list[dict[str, Any]] = [{"command": "attack", "options": {}, "inputs": [], "versions": {}}]


def tensors(n: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(n)
    names = ("labels", "clean_predictions", "adversarial_predictions", "status", "key", "index", "source")
    numbers = {name: torch.randint(0, 3, (n,), generator=draw) for name in names}
    return {
        "images": torch.rand(n, 2, 3, 5, generator=draw),
        "adversarial": torch.rand(n, 2, 3, 5, generator=draw),
    } | numbers


def fill(target: str | None, n: int) -> Artifact:
    """By rows, the last one first, and whole columns."""
    given = tensors(n)
    layout = {name: (values.dtype, tuple(values.shape)) for name, values in given.items()}
    with new_artifact(target, "attack", HEADER, HISTORY, layout) as made:
        for row in reversed(range(n)):
            made.put("images", given["images"][row], row)
        for name, values in given.items():
            if name != "images":
                made.put(name, values)
    return made.artifact


@pytest.mark.parametrize("n", [1, 7])
def test_the_same_bytes_as_the_library_writes_at_once(n: int, tmp_path: Path) -> None:
    made = fill(str(tmp_path / "file"), n)
    at_once, digest = serialise(Artifact("attack", HEADER, tensors(n), HISTORY))
    assert (tmp_path / "file").read_bytes() == at_once
    assert made.digest == digest == fmtool.read(str(tmp_path / "file")).digest
    assert fill(None, n).digest == digest
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bool_and_narrow_tensors_are_laid_out_as_the_library_does(files: Path) -> None:
    """The widest dtypes first, then names: every kind of file that fmtool writes."""
    described = [describe(str(path)) for path in files.glob("*.safetensors")]
    assert {one.kind for one in described} == set(TENSORS)
    for one in described:
        assert offsets_of(one.shapes) == one.offsets, one.kind


def test_rows_by_number_slice_and_tensor(tmp_path: Path) -> None:
    fill(str(tmp_path / "file"), 7)
    found, given = streaming.read(str(tmp_path / "file"), "attack"), tensors(7)
    rows = found.rows("images")
    assert isinstance(rows, FileRows) and rows.shape == (7, 2, 3, 5) and len(rows) == 7
    for some in (
        3,
        torch.tensor(2),
        slice(2, 5),
        slice(None),
        slice(5, 5),
        torch.tensor([6, 0, 0]),
        torch.tensor([]).long(),
    ):
        assert torch.equal(rows[some], given["images"][some])
    assert torch.equal(found["labels"], given["labels"])
    assert found.header == HEADER and set(found.tensors) == set(given)


def test_a_file_that_is_replaced_while_it_is_read_stays_what_it_was(tmp_path: Path) -> None:
    fill(str(tmp_path / "file"), 7)
    found = streaming.read(str(tmp_path / "file"))
    fill(str(tmp_path / "file"), 3)
    assert torch.equal(found["images"], tensors(7)["images"])


def test_a_file_that_is_truncated_while_it_is_read_is_told(tmp_path: Path) -> None:
    fill(str(tmp_path / "file"), 7)
    found = streaming.read(str(tmp_path / "file"))
    os.truncate(tmp_path / "file", 2000)
    with pytest.raises(ArtifactError, match="was it truncated while being read"):
        _ = found["images"]


def test_damaged_foreign_and_other_files_are_refused(tmp_path: Path, files: Path) -> None:
    fill(str(tmp_path / "file"), 3)
    content = (tmp_path / "file").read_bytes()
    for name, data, message in (
        ("short", content[:5], "not a complete safetensors file"),
        ("cut", content[:-1], "not a complete safetensors file"),
        ("changed", content[:-1] + b"x", "does not match its digest"),
        ("empty", b"", "not a complete safetensors file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=message):
            streaming.read(str(tmp_path / name), "attack")
    with pytest.raises(ArtifactError, match="expected a masks file, got a file of kind attack"):
        streaming.read(str(tmp_path / "file"), "masks")
    for name, message in (("missing", "No such file"), ("", "Is a directory")):
        with pytest.raises(ArtifactError, match=f"can't be read: {message}"):
            streaming.read(str(tmp_path / name))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("a bug")])
def test_an_error_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    expected = ArtifactError if isinstance(error, OSError) else type(error)
    with (
        pytest.raises(expected),
        new_artifact(str(target), "attack", HEADER, HISTORY, {"x": (torch.float32, (3,))}) as made,
    ):
        made.put("x", torch.tensor(1.0), 1)
        raise error
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"old"


def test_standard_input_and_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    fill("-", 5)
    content = capfdbinary.readouterr().out
    fill(str(tmp_path / "file"), 5)
    assert content == (tmp_path / "file").read_bytes()

    class Piped(io.BytesIO):
        buffer = property(lambda self: self)

    monkeypatch.setattr(sys, "stdin", Piped(content))
    assert torch.equal(streaming.read("-", "attack")["adversarial"], tensors(5)["adversarial"])
    monkeypatch.setattr(sys, "stdin", Piped(b""))
    with pytest.raises(ArtifactError, match="standard input is empty"):
        streaming.read("-")


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    fill(str(tmp_path / "file"), 5)
    os.mkfifo(tmp_path / "fifo")
    content = (tmp_path / "file").read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(content))
    writer.start()
    found = streaming.read(str(tmp_path / "fifo"), "attack")
    writer.join(timeout=30)
    assert torch.equal(found["images"], tensors(5)["images"])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["attack", "data"])
def test_fit_masks_writes_the_file_that_memory_would_give(source: str, files: Path, tmp_path: Path, run: Run) -> None:
    """Rows read from and written to files, against the whole in memory: the same bytes and the same table."""
    model, few = fmtool.read(str(files / "model.safetensors")), {"min_steps": 5, "max_steps": 9, "lambda_": 0.1}
    data = fmtool.load_data("digits:test", limit=30)
    given = fmtool.read(str(files / "fmn.safetensors")) if source == "attack" else data
    fmtool.write(fmtool.fit_masks(model, given, **few), str(tmp_path / "memory"))  # type: ignore[arg-type]
    named = [files / "fmn.safetensors"] if source == "attack" else ["--data", "digits:test", "--limit", 30]
    options = ["--for", "essential", "--lambda", 0.1, "--min-steps", 5, "--max-steps", 9]
    found = run("fit-masks", files / "model.safetensors", *named, *options, "-o", tmp_path / "rows")
    assert found.code == 0, found.err
    if source == "attack":
        assert (tmp_path / "rows").read_bytes() == (tmp_path / "memory").read_bytes()
    one, other = (fmtool.read(str(tmp_path / name)) for name in ("rows", "memory"))
    for name in one.tensors:
        assert torch.equal(one[name], other[name]), name
    assert (
        run("inspect", tmp_path / "rows", "--format", "csv").out
        == run("inspect", tmp_path / "memory", "--format", "csv").out
    )


def test_a_pipe_that_ends_with_an_error_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            if self.tell():
                raise KeyboardInterrupt
            return super().read(3)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Broken(b"abcdef"), isatty=lambda: False))
    with pytest.raises(KeyboardInterrupt):
        streaming.read("-")
    assert list(tmp_path.iterdir()) == []
