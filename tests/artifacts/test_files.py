"""Artifacts are read whole from paths and standard input, and any safetensors reader reads them too."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fmtool
from fmtool.artifacts.files import describe, looks_like_artifact


def test_any_safetensors_reader_sees_the_same_tensors(files: Path) -> None:
    path = files / "essential.safetensors"
    plain, ours, described = load_file(path), fmtool.read(str(path)), describe(str(path))
    assert plain.keys() == ours.tensors.keys() == described.shapes.keys()
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    assert all(np.array_equal(plain[name].numpy(), array) for name, array in described.arrays().items())


def test_an_artifact_is_recognised_by_its_first_bytes(files: Path, tmp_path: Path) -> None:
    path = files / "model.safetensors"
    assert looks_like_artifact(str(path))
    (tmp_path / "head").write_bytes(path.read_bytes()[:4096])  # damaged, but a file of ours
    (tmp_path / "short").write_bytes(b"1234567")
    assert looks_like_artifact(str(tmp_path / "head"))
    assert not any(map(looks_like_artifact, (str(tmp_path / "short"), str(tmp_path), str(tmp_path / "missing"), "-")))


def _inspect(stdin: int | None = None, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fmtool", "inspect", "-"], stdin=stdin, input=content, capture_output=True, timeout=60
    )


def test_a_path_is_as_good_as_its_text(files: Path, tmp_path: Path) -> None:
    read = fmtool.read(files / "fmn.safetensors")  # type: ignore[arg-type]
    assert str(read) == str(files / "fmn.safetensors")
    assert fmtool.Execution(output=tmp_path / "x").output == str(tmp_path / "x")  # type: ignore[arg-type]


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
