"""How the throughput of `fit-masks` grows from one process of one thread to several: shards side by side, and torchrun.

python examples/benchmarks/processes.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, classifiers, pixels, ratio, rounds, seconds, show, spread
from safetensors.torch import save_file

import fmtool
from fmtool.models.classifier import predict

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"


# Over 60 lines: one table, and what is timed for it.
def main() -> None:
    """Print one table."""
    given = arguments(
        images={"type": int, "default": 128},
        steps={"type": int, "default": 200, "help": "of each image"},
        processes={"type": int, "default": 2},
    )
    _, ready, model = classifiers(given)
    images, _ = pixels(given, given.images)
    labels = predict(ready.classifier, images, ready.batch, ready.device)  # whatever it says is right
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the scripts' `python` is this one
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    count = str(given.processes)
    with tempfile.TemporaryDirectory() as folder:
        fmtool.write(model, f"{folder}/model")
        save_file({"images": images, "labels": labels}, f"{folder}/data.safetensors")
        ways = {
            "1 process": [sys.executable, "-m", "fmtool"],
            f"{count} processes, one shard each, then merge": [str(CLUSTER / "local.sh"), count, f"{folder}/out"],
            f"{count} processes of torchrun": [str(CLUSTER / "torchrun.sh"), count],
        }

        def run(way: str, steps: int) -> float:
            line = [*ways[way], "fit-masks", f"{folder}/model", "--data", f"{folder}/data.safetensors"]
            line += [
                "--for",
                "essential",
                "--min-steps",
                str(steps),
                "--max-steps",
                str(steps),
                "--no-compile",
                "--quiet",
            ]
            line += ["--device", given.device, *([] if "merge" in way else ["-o", f"{folder}/out"])]
            taken = seconds(lambda: subprocess.run(line, check=True, env=environment, stdout=subprocess.DEVNULL))
            made.setdefault(steps, (Path(folder) / "out").read_bytes())
            assert made[steps] == (Path(folder) / "out").read_bytes(), f"{way}: other bytes"
            return taken

        made: dict[int, bytes] = {}
        works = {
            f"{way}, {steps} steps": (lambda way=way, steps=steps: run(way, steps))
            for way in ways
            for steps in (1, given.steps)
        }
        found = rounds(works, given.rounds)
    few, many = ({way: found[f"{way}, {steps} steps"] for way in ways} for steps in (1, given.steps))
    rates = {
        way: [len(images) * (given.steps - 1) / (b - a) for a, b in zip(few[way], many[way], strict=True)]
        for way in ways
    }
    first = rates["1 process"]
    show(
        f"Processes of one thread: ResNet-20, {len(images)} images, {given.steps} steps each",
        ["", "image-steps a second", "times one process", "whole command, s", "of it start and end, s"],
        [
            [
                way,
                spread(rates[way], ".0f"),
                ratio(rates[way], first),
                spread(many[way], ".1f"),
                spread(few[way], ".1f"),
            ]
            for way in ways
        ],
        [f"Medians, lowest and highest of {given.rounds} rounds. Every way gives the same bytes."],
    )


if __name__ == "__main__":
    main()
