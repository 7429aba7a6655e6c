"""Stages read and write images a few at a time: their peak memory does not grow with the number of images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.processes, pytest.mark.slow]

FEW, MANY, SIDE = 300, 1500, 160  # few: more than are read together
HELD = (MANY - FEW) * 3 * SIDE * SIDE / 2**20  # MiB of the images as bytes: 88; as float32 four times as much
FACTORY = """
import torch
from torch import nn


def brightest():
    head = nn.Linear(3, 3)
    with torch.no_grad():
        head.weight.copy_(20 * torch.eye(3))
        head.bias.zero_()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""
# A command with small limits on what is held, as the images would have to be many more otherwise.
CODE = """
import sys
from fmtool.artifacts import scratch
from fmtool.datasets import encoded_rows, rows
from fmtool.masks import class_fitting
scratch.IN_MEMORY = encoded_rows.IN_MEMORY = rows.IN_MEMORY = class_fitting.HELD = 2**20
from fmtool.__main__ import main
main()
"""
STEPS = "--min-steps 1 --max-steps 1 --no-compile"
LINES = {  # in this order: later ones read what earlier ones wrote
    "attack": "attack MODEL --data DATA --attack pgd --epsilon 0.5 --attack-option steps=2 -o ATTACK",
    "class-masks": f"class-masks MODEL --data DATA {STEPS} -o CLASSMASKS",
    "robust": f"class-masks MODEL ATTACK --robust {STEPS} -o OTHER",
    "adaptive": "attack MODEL --data DATA --defense CLASSMASKS --restarts 1 --attack-option steps=1 -o OTHER",
    "fit-masks": f"fit-masks MODEL --data DATA --for essential --limit 16 {STEPS} -o OTHER",
    "defend": "defend MODEL ATTACK CLASSMASKS -o OTHER",
    "train-head": "train-model --data DATA --from MODEL --head-only --epochs 1 -o OTHER",
    "train": "train-model --data DATA --from MODEL --epochs 1 --batch-size 8 --augment none --no-compile -o OTHER",
}


def pictures(folder: Path, count: int) -> None:
    """Grey noise with a hint of red, green or blue, which names the class; copies are links."""
    noise = np.random.default_rng(0).integers(60, 190, (SIDE, SIDE, 1)).repeat(3, axis=2)
    for number in range(count):
        colour, name = number % 3, "rgb"[number % 3]
        path = folder / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= 3:
            path.hardlink_to(folder / name / f"{colour}.jpg")
        else:
            Image.fromarray((noise + 8 * np.eye(3, dtype=int)[colour]).astype(np.uint8)).save(path, subsampling=0)


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The largest resident sets in MiB of each line, for few and for many images."""
    folder = tmp_path_factory.mktemp("memory")
    (folder / "factories.py").write_text(FACTORY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    factory = ["--factory", "factories:brightest"]

    def peak(line: str, names: dict[str, str]) -> float:
        words = [names.get(word, word) for word in line.split()]
        command = [sys.executable, "-c", CODE, *words, "--quiet", "--device", "cpu"][
            : -2 if words[0] == "import-model" else None
        ]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
        return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)

    peak(f"import-model factories:brightest --input-shape 3,{SIDE},{SIDE} --class-names r,g,b -o {folder}/model", {})
    found: dict[str, list[float]] = {name: [] for name in LINES}
    for count in (FEW, MANY):
        pictures(folder / str(count), count)
        names = {word: f"{folder}/{word.lower()}" for word in ("MODEL", "ATTACK", "CLASSMASKS", "OTHER")}
        for name, line in LINES.items():
            found[name].append(peak(" ".join([line, *factory]), {**names, "DATA": f"{folder}/{count}"}))
    return found


@pytest.mark.parametrize("name", LINES)
def test_peak_memory_does_not_grow_with_the_images(name: str, peaks: dict[str, list[float]]) -> None:
    """By less than the images' bytes would take, a quarter of their floats."""
    few, many = peaks[name]
    assert many - few < HELD * 0.8, peaks
