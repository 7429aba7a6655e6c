"""Defaults and `Execution`: light to import, public, and refused where a stage can't do what it asks for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fmtool
from fmtool.errors import FmtoolError
from fmtool.runtime.distributed import Ranks
from fmtool.runtime.shards import Shard
from fmtool.stages.options import EPSILON

STAGES = ("attack", "check_masks", "class_masks", "correlate", "defend", "fit_masks", "merge", "train_model")


@pytest.mark.processes
def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, fmtool.stages.options; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_takes_one_execution_and_nothing_of_it_apart(name: str) -> None:
    parameters = inspect.signature(getattr(fmtool, name)).parameters
    assert parameters["execution"].default == fmtool.Execution()
    apart = set(vars(fmtool.Execution())) & set(parameters)
    assert apart == ({"batch_size"} if name == "train_model" else set())  # images a training step


@pytest.mark.parametrize(
    ("call", "command", "field", "value"),
    [
        (lambda **more: fmtool.merge([], **more), "merge", "device", "cuda"),
        (lambda **more: fmtool.defend(None, [], [], **more), "defend", "shard", Shard(1, 2)),  # type: ignore[arg-type]
        (lambda **more: fmtool.heatmap(None, None, **more), "heatmap", "ranks", Ranks(0, 2)),  # type: ignore[arg-type]
        (lambda **more: fmtool.check_masks(None, None, None, **more), "check-masks", "output", "x"),  # type: ignore[arg-type]
        (lambda **more: fmtool.correlate(None, None, **more), "correlate", "batch_size", 8),  # type: ignore[arg-type]
        (lambda **more: fmtool.train_model(None, **more), "train-model", "batch_size", 8),  # type: ignore[arg-type]
    ],
)
def test_what_a_stage_cannot_do_is_an_error(call: Callable[..., Any], command: str, field: str, value: Any) -> None:
    with pytest.raises(FmtoolError, match=f"{command} takes no {field} in its Execution, got "):
        call(execution=fmtool.Execution(**{field: value}))


def test_the_default_bound_is_the_papers(files: Path) -> None:
    assert EPSILON == 8 / 255
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=10)
    made = fmtool.attack(model, data, attack="pgd", attack_options={"steps": 1})
    assert made.header["options"]["epsilon"] == 8 / 255


def test_defend_writes_what_it_gives(files: Path, tmp_path: Path) -> None:
    model, attack, plain = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn", "plain"))
    target = str(tmp_path / "defense")
    found = fmtool.defend(model, [attack], [plain], execution=fmtool.Execution(output=target))
    assert fmtool.read(target).digest == found.digest
