"""A folder of pictures, decoded as they are needed, and the same images in memory: time and peak memory of a pass over them.

python examples/benchmarks/reading.py --images 10000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import show
from PIL import Image
from safetensors.torch import save_file

import fmtool

SIDE, CLASSES = 224, 4


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--architecture", default="resnet18", help="of torchvision, with random weights")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = fmtool.import_model(given.architecture, weights="none", input_shape=(3, SIDE, SIDE))
        fmtool.write(model, f"{folder}/model")
        make_pictures(folder, given.images)
        for source in ("pictures", "memory.safetensors"):
            line = [
                "train-model",
                "--from",
                f"{folder}/model",
                "--head-only",
                "--epochs",
                "1",
                "--data",
                f"{folder}/{source}",
            ]
            seconds, peak = measured([*line, "--device", "cpu", "-q", "-o", f"{folder}/out"])
            rows.append([source.partition(".")[0], seconds, peak])
    (first, *_), (second, *_) = [(row[1],) for row in rows]
    show(
        f"train-model --head-only: {given.architecture}, {given.images} pictures of {SIDE}x{SIDE}, one pass",
        ["images", "seconds", "peak MiB"],
        [[title, f"{seconds:.1f}", f"{peak:.0f}"] for title, seconds, peak in rows],
        [f"the folder takes {first / second:.2f} times as long as memory, on {os.cpu_count()} cores"],
    )


def make_pictures(folder: Path, count: int) -> None:
    """JPEGs in a folder per class, and what they decode to in one file."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        path = folder / "pictures" / str(number % CLASSES) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
    data = fmtool.load_data(str(folder / "pictures"))
    images = torch.empty((count, 3, SIDE, SIDE), dtype=torch.uint8)
    for start in range(0, count, 256):
        images[start : start + 256] = data.images[start : start + 256]
    names = json.dumps(list(data.class_names))
    save_file({"images": images, "labels": data.labels}, folder / "memory.safetensors", {"class_names": names})


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and MiB of the largest resident set of one run of fmtool."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "fmtool", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - started, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


if __name__ == "__main__":
    main()
