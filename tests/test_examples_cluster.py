"""The scripts for clusters, with two processes on this machine: one file, of the bytes of a single process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

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
    assert done.returncode in (1, 2) and "'neither' is not one of" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_task_is_resumed_alone_by_the_lines_that_name_it(files: Path, whole: bytes, tmp_path: Path) -> None:
    def run(*line: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)

    (tmp_path / "out.2-of-2").mkdir()  # where the second one can't write
    done = run(FOLDER / "local.sh", "2", "out", *words(files))
    assert done.returncode == 1 and sorted(path.name for path in tmp_path.iterdir()) == ["out.1-of-2", "out.2-of-2"]
    task, merge = re.findall(r"^local.sh: .*: ((?:SLURM_|fmtool ).*)$", done.stderr, flags=re.MULTILINE)
    (tmp_path / "out.2-of-2").rmdir()
    for line in (task, f"{sys.executable} -m {merge}"):
        assert run("bash", "-c", line).returncode == 0
    assert (tmp_path / "out").read_bytes() == whole


def task(tmp_path: Path, line: list[str], **slurm: int) -> subprocess.CompletedProcess[str]:
    """Run array.sbatch as Slurm does."""
    given = {name if name == "SHARDS" else f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in slurm.items()}
    return subprocess.run(
        ["bash", FOLDER / "array.sbatch", *line], cwd=tmp_path, env={**ENVIRONMENT, **given},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_an_array_task_is_one_shard_also_when_it_is_submitted_alone(files: Path, tmp_path: Path) -> None:
    """Slurm's lines come before any command."""
    text = (FOLDER / "array.sbatch").read_text()
    assert re.match(r"#!/usr/bin/env bash\n(#SBATCH --[a-z-]+(=\S+)?\n)+", text)
    done = task(tmp_path, ["out", *words(files)], ID=2, MIN=1, MAX=2, COUNT=2)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.iterdir()
    assert made.name == "out.2-of-2" and b'\\"shard\\":{\\"number\\":2,\\"of\\":2,\\"rows\\":15}' in made.read_bytes()
    first = made.read_bytes()
    made.unlink()
    done = task(tmp_path, ["out", *words(files)], ID=2, MIN=2, MAX=2, COUNT=1, SHARDS=2)
    assert done.returncode == 0 and made.read_bytes() == first


@pytest.mark.parametrize(("low", "high", "count"), [(3, 3, 1), (1, 1, 1), (0, 1, 2), (1, 7, 4), (2, 8, 7)])
def test_a_part_of_an_array_wants_the_number_of_shards(low: int, high: int, count: int, tmp_path: Path) -> None:
    done = task(tmp_path, ["out", "fit-masks"], ID=high, MIN=low, MAX=high, COUNT=count)
    assert done.returncode == 2 and "expected SHARDS, the number of shards" in done.stderr and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["array.sbatch", "local.sh", "torchrun.sh"])
def test_without_arguments_the_usage_is_told(name: str) -> None:
    done = subprocess.run(["bash", FOLDER / name], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and re.fullmatch(rf"usage: .*{name} .*COMMAND\.\.\.\n", done.stderr)
