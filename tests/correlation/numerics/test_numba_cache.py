"""Where compiled code is cached."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from fmtool.correlation.numerics import numba_cache


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba_cache.SETTINGS, "CACHE_DIR", "")
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path / "cache"))


def test_the_folder_is_made_below_our_cache(tmp_path: Path) -> None:
    assert numba_cache._prepare()
    assert str(tmp_path / "cache" / "numba") == numba_cache.SETTINGS.CACHE_DIR and (tmp_path / "cache/numba").is_dir()


def test_the_users_folder_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba_cache.SETTINGS, "CACHE_DIR", "elsewhere")
    assert numba_cache._prepare() and numba_cache.SETTINGS.CACHE_DIR == "elsewhere"
    assert not (tmp_path / "cache").exists()


def test_without_a_folder_to_write_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").touch()  # a file, below which no folder can be made
    assert not numba_cache._prepare() and numba_cache.SETTINGS.CACHE_DIR == ""
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not numba_cache._prepare() and numba_cache.SETTINGS.CACHE_DIR == ""


def test_a_full_disk_costs_the_cache_and_not_the_command() -> None:
    from numba.core import caching

    caching.FunctionCache.save_overload(_Cache(), None, None)


class _Cache:
    """As much of a cache as saving needs."""

    def _guard_against_spurious_io_errors(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _save_overload(self, signature: object, data: object) -> None:
        raise OSError(28, "No space left on device")
