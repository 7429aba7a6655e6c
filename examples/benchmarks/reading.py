"""A folder of pictures and the same images in memory: time and peak memory of the stages that read them.

fmtool import-model squeezenet1_1 --weights squeezenet1_1-imagenet.safetensors --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \
  --input-shape 3,224,224 --keep-classes 0,217,482,491,497,566,569,571,574,701 -o squeezenet.safetensors
python examples/benchmarks/reading.py --model squeezenet.safetensors --pictures imagenette224-sample.zip:train --images 1000

A stage takes few steps, so that reading counts for as much as it ever does. Without --model the classifier is linear in means of
8x8 pixels and costs next to nothing: that shows memory, also of many images, and no ratio that a network would have. `robust` and
`defend` read attack files, or have them in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from common import show
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import fmtool

STEPS = "--min-steps 1 --max-steps 2"
# Lines of fmtool; DATA stands for the pictures or for the same images in memory, the words of others for files.
STAGES = {
    "train-head": "train-model --data DATA --from MODEL --head-only --epochs 1",
    "train": "train-model --data DATA --from MODEL --epochs 3 --batch-size 16 --learning-rate 0.001 --augment none --no-compile",
    "attack": "attack MODEL --data DATA --attack pgd --attack-option steps=2",
    "fit-masks": f"fit-masks MODEL --data DATA --for essential {STEPS} --no-compile",
    "class-masks": f"class-masks MODEL --data DATA {STEPS} --no-compile",
    "robust": f"class-masks MODEL ATTACK --robust {STEPS} --no-compile",
    "defend": "defend MODEL ATTACK CLASSMASKS",
}
FACTORY = "reading:linear"
LINEAR = f"train-model --architecture {FACTORY} --recipe one-cycle --epochs 3 --learning-rate 0.02 --augment none --no-compile"
IN_MEMORY = "import sys, fmtool; m, a, c = map(fmtool.read, sys.argv[1:4])"
WHOLE = {  # the stages that read a file, with that file in memory
    "robust": f"{IN_MEMORY}; fmtool.class_masks(m, a, robust=True, min_steps=1, max_steps=2, compile_=False)",
    "defend": f"{IN_MEMORY}; fmtool.defend(m, [a], [c])",
}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", help="a model file that gets many of the pictures right [default: see above]")
    parser.add_argument("--pictures", required=True, help="what --data takes: the pictures that are copied")
    parser.add_argument("--images", type=int, default=1_000, help="copies, each with other pixels, as JPEG")
    parser.add_argument(
        "--stages", default=",".join(STAGES), help="of these, in this order; robust and defend need attack"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the same images in memory")
    parser.add_argument(
        "--folder", help="for the files, which are left there and used again [default: a temporary one]"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(given.folder or name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "memory.safetensors").exists():
            make_pictures(folder, given.pictures, given.images)
        model = given.model or f"{folder}/linear"
        more = [] if given.model else ["--factory", FACTORY]
        if not Path(model).exists():
            measured(["-m", "fmtool", *LINEAR.split(), "--data", f"{folder}/pictures", "-q", "-o", model])
        where = {
            "MODEL": model,
            "ATTACK": str(folder / "attack"),
            "CLASSMASKS": str(folder / "class-masks"),
            "pictures": str(folder / "pictures"),
            "memory": str(folder / "memory.safetensors"),
        }
        rows = []
        for stage in given.stages.split(","):
            figures = [
                measured(commands(stage, source, where, more))
                for source in ("pictures", "memory")[: 2 - given.no_memory]
            ]
            print(stage, figures, file=sys.stderr)
            seconds, peaks = zip(*figures, strict=True)
            ratio = f"{seconds[0] / seconds[1]:.2f}" if len(figures) == 2 else "-"
            rows.append([stage, *(f"{s:.1f}" for s in seconds), ratio, *(f"{p:,.0f}" for p in peaks)])
    sources = ["from files", "in memory"][: 2 - given.no_memory]
    show(
        f"Reading {given.images} pictures of {given.pictures}",
        ["stage", *(f"{source}, s" for source in sources), "ratio", *(f"{source}, peak MiB" for source in sources)],
        rows,
        [f"whole commands with few steps on {os.cpu_count()} cores; resident set of the process"],
    )


def linear(classes: int = 10) -> nn.Module:
    """Logits of images 224x224 from the means of 8x8 pixels."""
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 28 * 28, classes))


def commands(stage: str, source: str, where: Mapping[str, str], more: Sequence[str]) -> list[str]:
    """The arguments of Python for a stage. The result that later stages read is that of the pictures."""
    files = [where[name] for name in ("MODEL", "ATTACK", "CLASSMASKS")]
    if source == "memory" and stage in WHOLE:
        return ["-c", WHOLE[stage], *files]
    target = f"{where['ATTACK']}-other"
    if source == "pictures" and stage in ("attack", "class-masks"):
        target = where[stage.upper().replace("-", "")]
    words = [where[source] if word == "DATA" else where.get(word, word) for word in STAGES[stage].split()]
    names = ["--classes-by-position"] if "DATA" in STAGES[stage] and "--from" not in words else []
    return ["-m", "fmtool", *words, *names, *more, "--device", "cpu", "-q", "-o", target]


def make_pictures(folder: Path, source: str, count: int) -> None:
    """JPEGs in a folder per class, and what they decode to in one file, written a few rows at a time."""
    given = fmtool.load_data(source)
    order = torch.randperm(
        len(given), generator=torch.Generator().manual_seed(0)
    ).tolist()  # so that few have all classes
    for number in range(count):
        copy, row = number // len(given), order[number % len(given)]
        pixels = given.images[row].permute(1, 2, 0).numpy()
        pixels = np.roll(pixels[:, :: -1 if copy % 2 else 1], copy % 11, axis=1)
        path = folder / "pictures" / given.class_names[int(given.labels[row])] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=92)
    data = fmtool.load_data(str(folder / "pictures"))
    images = torch.empty(tuple(data.images.shape), dtype=torch.uint8)
    for start in range(0, count, 256):
        images[start : start + 256] = data.images[start : start + 256]
    names = json.dumps(list(data.class_names))
    save_file({"images": images, "labels": data.labels}, folder / "memory.safetensors", {"class_names": names})


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and MiB of the largest resident set of one run of Python."""
    started = time.perf_counter()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])  # for the factory
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - started, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


if __name__ == "__main__":
    main()
