"""The same commands in another process and folder write the same bytes, and histories name all that led to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fmtool
from fmtool.__main__ import run_command
from fmtool.artifacts.files import describe

pytestmark = pytest.mark.processes

STAGES = {
    "model": "train-model --data digits --architecture resnet8 --epochs 1 --limit 64 --recipe one-cycle --augment crop",
    "imported": "import-model resnet8 --weights IN/model --input-shape 1,8,8 --keep-classes 3,1,2 --mean 0.5 --std 0.5",
    "head": "train-model --data digits --from IN/model --head-only --epochs 1 --limit 64",
    "pgd": "attack IN/model --data digits --limit 40 --attack pgd --epsilon 0.3 --attack-option steps=3 --seed 1",
    "essential": "fit-masks IN/model IN/pgd --for essential --min-steps 3 --max-steps 5 --lambda 0.1",
    "adversarial": "fit-masks IN/model IN/pgd --for adversarial --min-steps 3 --max-steps 5 --lambda 0.1",
    "correlation": "correlate IN/essential IN/essential --permutations 9 --statistics svcca,cosine",
    "plain": "class-masks IN/model --data digits --limit 40 --min-steps 3 --max-steps 5",
    "robust": "class-masks IN/model IN/pgd --robust --min-steps 3 --max-steps 5",
    "defense": "defend IN/model IN/pgd IN/plain IN/robust",
    "picture": "plot IN/essential --count 3",
}


def _lines(folder: Path) -> list[list[str]]:
    """The stages' arguments with their files in `folder`."""
    lines = []
    for name, line in STAGES.items():
        target = f"{folder}/{name}{'.png' if name == 'picture' else '.safetensors'}"
        words = [f"{folder}/{word[3:]}.safetensors" if word.startswith("IN/") else word for word in line.split()]
        lines.append([*words, "--quiet", "-o", target])
    return lines


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders, one filled in this process and one in another that orders its sets otherwise."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    assert [run_command(words) for words in _lines(here)] == [0] * len(STAGES)
    code = f"import fmtool.__main__ as m; print([m.run_command(words) for words in {_lines(there)!r}])"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Chatham", "LC_ALL": "C"}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, cwd=there, stdout=subprocess.DEVNULL, timeout=200
    )
    return here, there


@pytest.mark.parametrize("name", STAGES)
def test_same_command_twice_gives_the_same_bytes(name: str, twice: tuple[Path, Path]) -> None:
    file = f"{name}.png" if name == "picture" else f"{name}.safetensors"
    assert (twice[0] / file).read_bytes() == (twice[1] / file).read_bytes()


def test_another_seed_gives_another_file(twice: tuple[Path, Path], tmp_path: Path) -> None:
    words = [word if word != "1" else "2" for word in _lines(twice[0])[list(STAGES).index("pgd")][:-1]]
    assert run_command([*words, str(tmp_path / "pgd")]) == 0
    assert not torch.equal(
        fmtool.read(str(tmp_path / "pgd"))["adversarial"], fmtool.read(str(twice[0] / "pgd.safetensors"))["adversarial"]
    )


def test_history_names_every_stage_and_the_digest_of_every_input(twice: tuple[Path, Path]) -> None:
    folder = twice[0]
    made = {name: describe(str(folder / f"{name}.safetensors")) for name in STAGES if name != "picture"}
    history = made["defense"].history
    assert [stage["command"] for stage in history] == ["train-model", "attack", "class-masks", "class-masks", "defend"]
    outputs = [made[name].digest for name in ("model", "pgd", "plain", "robust")]
    assert [stage.get("output") for stage in history] == [*outputs, None]
    assert [entry["digest"] for entry in history[-1]["inputs"]] == outputs
    digits = {split: fmtool.load_data(f"digits:{split}") for split in ("train", "test")}
    train, attack, plain, robust, _ = ([entry["digest"] for entry in stage["inputs"]] for stage in history)
    assert train == [fmtool.load_data("digits:train", limit=64).digest, digits["test"].digest]
    assert attack == [made["model"].digest, fmtool.load_data("digits:test", limit=40).digest]
    assert plain == [made["model"].digest, fmtool.load_data("digits:train", limit=40).digest]
    assert robust == [made["model"].digest, made["pgd"].digest]
    assert [entry["kind"] for entry in history[2]["inputs"]] == ["model", "data"]
    assert history[1]["seed"] == 1 and history[1]["options"]["--epsilon"] == 0.3
    assert history[1]["options"]["--attack-option"]["steps"] == 3
    for stage in history:
        assert stage["versions"].keys() == {"fmtool", "torch", "foolbox"}
    assert [stage["command"] for stage in made["correlation"].history] == [
        "train-model", "attack", "fit-masks", "correlate",
    ]  # fmt: skip
