"""Mutated files: every kind, every command, no traceback, no hang, little memory, nothing written (see `fuzz.py`)."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from conftest import commands_with
from fuzz import Counts, Fuzzer, fuzz, seeds
from fuzz_commands import COMMANDS, KINDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import Bad, forged, raw

from fmtool.artifacts.files import describe
from fmtool.errors import ArtifactError


@pytest.fixture(scope="session")
def good(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the fixture `files` and foreign ones."""
    folder = tmp_path_factory.mktemp("good") / "files"
    shutil.copytree(files, folder)
    seeds(folder)
    return folder


def check(found: Counts, count: int) -> None:
    """No problem, and both of what a file may end in is there."""
    assert found.problems == []
    assert found.files == count and found.refused + found.ran == count
    assert found.refused > count / 3 and found.ran > count / 10


@pytest.mark.slow
def test_mutated_files_end_in_one_line_or_a_result(good: Path, tmp_path: Path) -> None:
    check(fuzz(good, tmp_path, 60, seed=1), 60)


@pytest.mark.long
def test_ten_thousand_mutated_files(good: Path, tmp_path: Path) -> None:
    check(fuzz(good, tmp_path, 10_000, seed=2), 10_000)


@pytest.mark.slow
@settings(max_examples=450, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(numbers=st.randoms(use_true_random=False), name=st.sampled_from(sorted(KINDS)), is_raw=st.booleans())
def test_readers_refuse_changed_bytes_and_agree_on_forged_files(
    numbers: random.Random, name: str, is_raw: bool, good: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = (good / f"{name}.safetensors").read_bytes()
    bad = (raw if is_raw else forged)(name, content, numbers)
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(bad.content)
    assert not (Fuzzer(good, path.parent).read(bad, str(path)) and is_raw)


def test_forged_files_get_behind_the_digest(good: Path, tmp_path: Path) -> None:
    """Else the fuzzer would show nothing: what it signs is taken, or refused for what it says."""
    content = (good / "fmn.safetensors").read_bytes()
    reasons = []
    for number in range(100):
        (tmp_path / "file").write_bytes(forged("fmn", content, random.Random(number)).content)
        try:
            describe(str(tmp_path / "file"))
            reasons.append("taken")
        except ArtifactError as error:
            reasons.append(str(error))
    assert not any("digest" in reason for reason in reasons)
    assert 20 < reasons.count("taken") < 80


def test_every_kind_and_command_is_fuzzed() -> None:
    lines = " ".join(line for lines in COMMANDS.values() for line in lines)
    assert [name for name in commands_with("--debug") if f"{name} " not in lines] == ["doctor"]  # which reads no file
    assert set(KINDS.values()) <= set(COMMANDS)


def test_a_problem_is_noticed(good: Path, tmp_path: Path) -> None:
    """A good file that is said to be a changed one."""
    fuzzer = Fuzzer(good, tmp_path)
    fuzzer.feed(Bad("fmn", "attack", (good / "fmn.safetensors").read_bytes(), True), random.Random(0))
    assert len(fuzzer.counts.problems) == 1 and "a changed file was taken" in fuzzer.counts.problems[0]
