"""Compiled code in the cache: found again where it is whole and belongs here, else made anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from fmtool.models import code_cache

OPERATIONS = ("input0: torch.float32 [2, 3]", "aten.neg.default input0")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled code is kept during a test."""
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


def is_found(operations: tuple[str, ...] = OPERATIONS) -> bool:
    """Whether a first compilation's file is there; if not, it is written, as torch would."""
    with code_cache.kept(operations) as folder:
        assert os.environ[code_cache.FOLDER] == str(folder)
        code = folder / "ab" / "code.so"
        found = code.exists()
        code.parent.mkdir(exist_ok=True)
        code.write_text("compiled")
        code.with_suffix(".so.load_ok").touch()
    return found


def test_code_is_found_again_for_the_same_operations_alone(home: Path) -> None:
    assert [is_found(), is_found()] == [False, True]
    for other in (OPERATIONS[:1], OPERATIONS[::-1]):
        assert [is_found(other), is_found(other)] == [False, True]
    assert len(list(home.iterdir())) == 3  # and nothing else is left
    assert code_cache.FOLDER not in os.environ or not os.environ[code_cache.FOLDER].startswith(str(home))


def test_another_processor_version_or_compiler_compiles_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_found()
    monkeypatch.setattr(code_cache, "_processor", lambda: "another one")
    assert not is_found()
    monkeypatch.undo()
    monkeypatch.setenv("FMTOOL_CACHE", str(home.parent))
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert not is_found()
    monkeypatch.undo()
    monkeypatch.setenv("FMTOOL_CACHE", str(home.parent))
    compiler = home.parent / "compiler"
    monkeypatch.setenv("CXX", str(compiler))
    compiler.write_text("")
    assert [is_found(), is_found()] == [False, True]
    compiler.write_text("a new one")
    assert not is_found()


def test_other_settings_of_the_compiler_compile_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_found()
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    assert [is_found(), is_found()] == [False, True]


def test_without_operations_nothing_is_kept(home: Path) -> None:
    with code_cache.kept(None) as folder:
        assert os.environ[code_cache.FOLDER] == str(folder)
        (folder / "code.so").touch()
    assert not folder.exists() and not home.exists()


def test_damaged_code_is_compiled_anew(home: Path) -> None:
    is_found()
    (code,) = home.glob("*/ab/code.so")
    for damage in (lambda: code.write_text("broken"), code.unlink, lambda: code.with_name("more.so").write_text("")):
        assert is_found()
        damage()
        assert not is_found()
    (digests,) = home.glob(f"*/{code_cache.DIGESTS}")
    digests.write_text("{")
    assert not is_found()
    assert len(list(home.iterdir())) == 1


def test_what_torch_adds_to_kept_code_is_kept_too(home: Path) -> None:
    """It does where a guard of the first entry doesn't hold."""
    is_found()
    with code_cache.kept(OPERATIONS):
        Path(os.environ[code_cache.FOLDER], "ab", "again").write_text("another entry")
    assert is_found()
    with code_cache.kept(OPERATIONS):  # a listed file that changes meanwhile is not taken for sound
        Path(os.environ[code_cache.FOLDER], "ab", "again").write_text("broken")
    assert is_found()
    assert [path.read_text() for path in home.glob("*/ab/again")] == ["another entry"]
    assert len(list(home.iterdir())) == 1


def test_code_that_others_can_replace_is_not_run(home: Path) -> None:
    is_found()
    home.chmod(0o777)
    assert not is_found()


def test_a_cache_that_cannot_be_written_keeps_nothing(home: Path) -> None:
    home.parent.write_text("a file")
    with code_cache.kept(OPERATIONS) as folder:
        (folder / "code.so").touch()
        assert not str(folder).startswith(str(home))
    assert not folder.exists()


def test_what_killed_processes_left_is_removed_after_a_week(home: Path) -> None:
    week = time.time() - code_cache.LEFT_FOR
    for name, age in ((".new-a", -60), (".old-b", -60), (".new-c", 3600)):
        (home / name).mkdir(parents=True)
        os.utime(home / name, (week + age, week + age))
    assert not is_found()
    assert sorted(path.name for path in home.iterdir() if path.name.startswith(".")) == [".new-c"]


def test_an_error_while_compiling_leaves_nothing(home: Path) -> None:
    with pytest.raises(OSError, match="no space"), code_cache.kept(OPERATIONS):
        raise OSError("no space")
    assert list(home.iterdir()) == []


def test_code_that_another_process_replaces_meanwhile_stays_at_hand(home: Path) -> None:
    is_found()
    with code_cache.kept(OPERATIONS):
        mine = Path(os.environ[code_cache.FOLDER], "ab", "code.so")
        (kept,) = home.glob("[!.]*/ab/code.so")
        kept.write_text("broken")
        assert not is_found()  # the other one compiles anew, in place of the damaged folder
        assert mine.read_text() == "compiled"
    assert is_found()
