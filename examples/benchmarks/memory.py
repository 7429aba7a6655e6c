"""Peak memory of `fit-masks` for few and for many images, from a file of attacked images and from a file of data.

python examples/benchmarks/memory.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import show
from safetensors.torch import save_file

import fmtool
from fmtool.artifacts import streaming
from fmtool.artifacts.history import stage
from fmtool.models.classifier import Classifier, predict
from fmtool.models.model_files import Specification, to_artifact
from fmtool.models.registry import ARCHITECTURES
from fmtool.stages.prepare import ready_model

COUNTS = (1_000, 10_000)
SHAPE = (3, 32, 32)
NAMES = tuple("0123456789")
STEPS = ["--min-steps", "1", "--max-steps", "2"]


def main() -> None:
    """Print one table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = Specification("resnet20", len(NAMES), SHAPE, NAMES)
        model = to_artifact(Classifier(ARCHITECTURES["resnet20"].build(3, 10)), spec, stage("train-model", {}, 0, []))
        fmtool.write(model, f"{folder}/model")
        run = ready_model(model, fmtool.Execution(device="cpu"))
        peaks: dict[str, list[float]] = {"attack file": [], "data file": []}
        for n in COUNTS:
            _attack(folder / "attack", n, fmtool.read(f"{folder}/model"))
            images = torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8)
            labels = predict(run.classifier, images, run.batch, run.device)  # whatever it says is right
            save_file({"images": images, "labels": labels}, f"{folder}/data.safetensors")
            for kind, source in zip(
                peaks, ([f"{folder}/attack"], ["--data", f"{folder}/data.safetensors"]), strict=True
            ):
                options = [
                    "--for",
                    "essential",
                    *STEPS,
                    "--device",
                    "cpu",
                    "--compile",
                    "-o",
                    f"{folder}/out",
                    "--quiet",
                ]
                peaks[kind].append(peak(["fit-masks", f"{folder}/model", *source, *options]))
        for kind, (few, many) in peaks.items():
            rows.append([kind, f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}"])
    columns = ["source of the images", *(f"{n:,} images, MiB" for n in COUNTS), "ratio"]
    show(
        "Peak memory of fit-masks: ResNet-20, 3x32x32",
        columns,
        rows,
        [f"{int(STEPS[-1]) + 1} steps an image; resident set of the process."],
    )


def peak(arguments: list[str]) -> float:
    """MiB of the largest resident set of one run of fmtool."""
    process = subprocess.Popen([sys.executable, "-m", "fmtool", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def _attack(path: Path, n: int, model: fmtool.Artifact) -> None:
    """A file of drawn images that pass for attacked ones."""
    pixels, numbers = (torch.float32, (n, *SHAPE)), (torch.int64, (n,))
    names = ("labels", "clean_predictions", "adversarial_predictions", "status", "key", "index", "source")
    header = {"attack": "fmn", "options": {}, "class_names": list(NAMES), "data": [{"name": "drawn", "split": "whole"}]}
    history = stage("attack", {}, 0, [model])
    layout = {"images": pixels, "adversarial": pixels, **dict.fromkeys(names, numbers)}
    with streaming.new_artifact(str(path), "attack", header, history, layout) as made:
        for row in range(n):
            for name in ("images", "adversarial"):
                made.put(name, torch.rand(SHAPE), row)
        made.put("index", torch.arange(n))
        made.put("key", torch.arange(n))


if __name__ == "__main__":
    main()
