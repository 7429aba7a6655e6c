"""The CIFAR-10 Makefile: one graph, nothing rebuilt that did not change."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[1] / "examples" / "cifar10" / "Makefile"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str) -> str:
    """What `make ARGUMENTS` prints, with a touch in place of every recipe unless -n is among them."""
    given = ["TRAIN=train.safetensors", "TEST=test.safetensors", "WEIGHTS=weights.th", "OUT=out", *arguments]
    done = subprocess.run(["make", "-f", str(MAKEFILE), *given], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder in which everything stands as if it had just been made, each file newer than what it is made from."""
    for number, name in enumerate(("train.safetensors", "test.safetensors", "weights.th")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number + 1, number + 1))
    (tmp_path / "out").mkdir()
    make(tmp_path, "-t")
    return tmp_path


def commands(printed: str) -> list[str]:
    """The targets that fmtool lines would make."""
    lines = [line for line in printed.splitlines() if line.startswith("fmtool ")]
    return sorted(line.split()[-1].removeprefix("out/") for line in lines)


def test_from_nothing_everything_is_made_once(tmp_path: Path) -> None:
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    made = commands(make(tmp_path, "-n", "LIMIT=20"))
    assert len(made) == len(set(made)) == 25
    assert "model.safetensors" in made and "table1.md" in made and "robust-masks.png" in made


def test_nothing_is_rebuilt_when_nothing_has_changed(built: Path) -> None:
    assert commands(make(built, "-n")) == []


def test_a_new_attack_rebuilds_what_hangs_on_it(built: Path) -> None:
    (built / "out" / "pgd.safetensors").touch()
    os.utime(built / "out" / "pgd.safetensors", (2**31, 2**31))
    assert commands(make(built, "-n")) == [
        "adversarial-pgd.safetensors", "correlation-pgd.safetensors", "defense.safetensors", "table1.md", "table4.md",
    ]  # fmt: skip


def test_new_training_data_leaves_the_test_side_alone_where_the_model_is_imported(built: Path) -> None:
    os.utime(built / "train.safetensors", (2**31, 2**31))
    made = commands(make(built, "-n"))
    assert "plain.safetensors" in made and "train-fmn.safetensors" in made and "defense.safetensors" in made
    assert not {"model.safetensors", "fmn.safetensors", "essential.safetensors", "table1.md"} & set(made)


def test_by_default_it_trains_by_the_papers_recipe_on_torchvisions_data(tmp_path: Path) -> None:
    done = subprocess.run(["make", "-n", "-f", str(MAKEFILE)], cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "train-model" in line]
    for expected in ("--data cifar10:train", "--test-data cifar10:test", "--recipe paper", "--architecture resnet20"):
        assert expected in line
