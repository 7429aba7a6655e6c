"""The scripts for clusters, with two processes on this machine: one file, of the bytes of a single process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "cluster"
# the scripts' `python` is the one that runs the tests
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
FIT = "fit-masks MODEL FMN --for adversarial --limit 15 --lambda 0.1 --min-steps 20 --max-steps 40"


def words(files: Path) -> list[str]:
    names = {name.upper(): str(files / f"{name}.safetensors") for name in ("model", "fmn")}
    return [names.get(word, word) for word in FIT.split()]


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("whole") / "x"
    subprocess.run([sys.executable, "-m", "fmtool", *words(files), "-o", target], check=True, env=ENVIRONMENT)
    return target.read_bytes()


@pytest.mark.parametrize("name", ["local.sh", "torchrun.sh"])
def test_two_processes_write_what_one_does(name: str, whole: bytes, files: Path, tmp_path: Path) -> None:
    given = ["out", *words(files)] if name == "local.sh" else [*words(files), "-o", "out"]
    done = subprocess.run(
        [FOLDER / name, "2", *given], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_task_that_fails_leaves_nothing_merged(files: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [FOLDER / "local.sh", "2", "out", *words(files)[:3], "--for", "neither"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "unknown --for 'neither'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_array_task_is_one_shard(files: Path, tmp_path: Path) -> None:
    """Whatever number the array begins with; Slurm's lines come before any command."""
    text = (FOLDER / "array.sbatch").read_text()
    assert re.match(r"#!/usr/bin/env bash\n(#SBATCH --[a-z-]+(=\S+)?\n)+", text)
    slurm = {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
    done = subprocess.run(
        ["bash", FOLDER / "array.sbatch", "out", *words(files)], cwd=tmp_path, env={**ENVIRONMENT, **slurm},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.iterdir()
    assert made.name == "out.2-of-2" and b'\\"shard\\":{\\"number\\":2,\\"of\\":2,\\"rows\\":15}' in made.read_bytes()
