"""Which folder downloads and compiled code go to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmtool.runtime.cache import cache_folder, compiler_command


def test_the_nearest_of_three_settings_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is none."""
    monkeypatch.setenv("HOME", "/somewhere")
    for name in ("FMTOOL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert cache_folder() == Path("/somewhere/.cache/fmtool")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/fmtool")
    monkeypatch.setenv("FMTOOL_CACHE", "ours")
    assert cache_folder() == Path("ours")


def test_the_compiler_is_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache 'my g++' -O1")
    assert compiler_command() == ["ccache", "my g++", "-O1"]
    monkeypatch.setenv("CXX", "")
    for system, expected in (("linux", "g++"), ("darwin", "clang++")):
        monkeypatch.setattr("sys.platform", system)
        assert compiler_command() == [expected]
