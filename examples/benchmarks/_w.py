"""What a user waits for: image-steps a second of whole `fit-masks` commands, start included, and where their time goes.

python examples/benchmarks/whole_command.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --images 50 320 1017
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import torch
from authors import fit_one
from common import arguments, bare_rate, classifiers, pixels, ratio, rounds, show, spread
from safetensors.torch import save_file

import fmtool
from fmtool.runtime import threads

LAMBDA = 0.5
LOOP_STEPS = 300  # of the authors' loop a timing
SETTINGS = ((32, True), (16, True), (8, True), (32, False))  # of the bare classifier: images a batch, compiled or not
PARTS = ("import", "start", "full", "tail", "end")  # of a command, each up to a moment that `_command` notes


def main() -> None:
    """Print one table."""
    given = arguments(
        images={"type": int, "nargs": "+", "default": [50, 320, 1017], "help": "images of each command"},
        options={"default": "", "help": "more options of fit-masks, in one word"},
    )
    plain, run, model = classifiers(given)
    images, labels = pixels(given, 64)
    device, before = run.device, torch.get_num_threads()

    def loop() -> float:
        """Steps a second of the authors' loop, with one thread, which is as fast as two."""
        torch.set_num_threads(1)
        started = time.perf_counter()
        fit_one(plain, images[0].to(device), int(labels[0]), LAMBDA, min_steps=LOOP_STEPS, max_steps=LOOP_STEPS - 1)
        torch.set_num_threads(before)
        return LOOP_STEPS / (time.perf_counter() - started)

    parts: dict[int, list[dict[str, float]]] = {n: [] for n in given.images}
    with tempfile.TemporaryDirectory() as folder, threads.pool(device) as pool:
        fmtool.write(model, f"{folder}/model")
        for n in given.images:
            part = fmtool.load_data(given.data, limit=n)
            save_file({"images": part.pixels(), "labels": part.labels}, f"{folder}/{n}.safetensors")

        def command(n: int) -> float:
            """Image-steps a second of one command; its parts are noted."""
            line = ["fit-masks", f"{folder}/model", "--data", f"{folder}/{n}.safetensors", "--for", "essential"]
            line += ["--lambda", str(LAMBDA), "--device", given.device, "--quiet", "--restart", "-o", f"{folder}/masks"]
            started = time.time()
            environment = {**os.environ, "WHOLE_COMMAND": json.dumps([*line, *given.options.split()])}
            done = subprocess.run(
                [sys.executable, __file__], check=True, env=environment, capture_output=True, text=True
            )
            ends = [started, *json.loads(done.stdout.splitlines()[-1]), time.time()]
            taken = ends[-1] - started
            parts[n].append({name: b - a for name, a, b in zip(PARTS, ends[:-1], ends[1:], strict=True)})
            return int(fmtool.read(f"{folder}/masks")["steps"].sum()) / taken

        bare = {
            f"bare, {'compiled' if compiled else 'uncompiled'}, workers of {batch}": bare_rate(
                run, images, labels, batch, compiled, pool
            )
            for batch, compiled in SETTINGS
        }
        commands = {f"fit-masks, {n} images": (lambda n=n: command(n)) for n in given.images}
        found = rounds({"authors' loop": loop, **bare, **commands}, given.rounds)
    bound = [max(values) for values in zip(*(found[name] for name in bare), strict=True)]
    rows = [
        [
            name,
            spread(values, ".0f"),
            ratio(values, found["authors' loop"], ".1f"),
            ratio(values, bound),
            *[""] * len(PARTS),
        ]
        for name, values in found.items()
    ]
    for row, n in zip(rows[-len(given.images) :], given.images, strict=True):
        row[-len(PARTS) :] = [spread([one[name] for one in parts[n]], ".1f") for name in PARTS]
    show(
        "Whole commands: ResNet-20, float32, second run",
        ["", "image-steps a second", "times the loop", "of the bound", *(f"{name}, s" for name in PARTS)],
        rows,
        [
            f"Medians, lowest and highest of {given.rounds} rounds. The bound: the best bare classifier of the same round. "
            "import: up to the first read of the model; start: up to the first step; full: until no image waits; "
            "tail: until the last mask; end: writing, and leaving."
        ],
    )


def _command(line: list[str]) -> None:
    """Run a command line in this process, and print when the parts of its work ended (seconds since 1970)."""
    moments: dict[str, float] = {}

    def note(part: str, *, again: bool = False) -> None:
        if again or part not in moments:
            moments[part] = time.time()

    from fmtool.__main__ import run_command
    from fmtool.artifacts import files
    from fmtool.masks import fit_queue, slots

    read, take, keep, run = files.read, fit_queue.Job.take, fit_queue.Job.keep, slots.Slots.run
    lock = threading.Lock()

    def first_read(*given: Any, **more: Any) -> Any:
        note("import")
        return read(*given, **more)

    def last_taken(job: Any) -> Any:
        taken = take(job)
        if taken is None:
            with lock:
                note("full")
        return taken

    def last_kept(*given: Any) -> None:
        keep(*given)
        note("tail", again=True)

    def first_step(*given: Any) -> None:
        with lock:
            note("start")
        run(*given)

    files.read, fit_queue.Job.take, fit_queue.Job.keep, slots.Slots.run = first_read, last_taken, last_kept, first_step  # type: ignore[method-assign, assignment]
    code = run_command(line)
    print(json.dumps([moments[part] for part in PARTS[:-1]]))
    sys.exit(code)


if __name__ == "__main__":
    if "WHOLE_COMMAND" in os.environ:
        _command(json.loads(os.environ["WHOLE_COMMAND"]))
    main()
