"""What the tests of commands share: the call that a command makes of its stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from conftest import Run
from stage_calls import Called

import fmtool
from fmtool.errors import FmtoolError


@pytest.fixture
def called(run: Run, monkeypatch: pytest.MonkeyPatch) -> Called:
    """Run a command up to its stage: what that is given, by position and by name, but no progress. Files are their paths."""

    def call(stage: str, *line: object) -> tuple[list[Any], dict[str, Any]]:
        calls: list[tuple[list[Any], dict[str, Any]]] = []

        def recorded(*given: Any, **options: Any) -> None:
            calls.append((list(given), options))
            raise FmtoolError("far enough")

        monkeypatch.setattr(fmtool, "read", lambda path, *kinds: path)
        monkeypatch.setattr(fmtool, stage, recorded)
        outcome = run(stage.replace("_", "-"), *line)
        assert outcome.code == 1 and outcome.err.endswith("fmtool: error: far enough\n"), outcome.err
        ((given, options),) = calls
        assert callable(options["execution"].progress)
        options["execution"] = dataclasses.replace(options["execution"], progress=None)
        return given, options

    return call
