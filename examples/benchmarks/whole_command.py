"""What a user waits for: image-steps a second of whole `fit-masks` commands, start included, and where their time goes.

python examples/benchmarks/whole_command.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --images 50 320 1017
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
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
EVERY = 15.0  # seconds of a command between two pauses, in which the bare classifier is timed
BURST = 1.0  # seconds of each of these timings
WARM_UP = 32  # images of a command after which all compiled code is in the cache
Notes = dict[int, list[list[float]]]
PARTS = ("import", "start", "full", "tail", "end")  # of a command, each up to a moment that `_command` notes


# Over 60 lines: one table, and what is timed for it.
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

    # for each number of images: of each command the seconds of its parts, and the mean rates of the bare classifiers
    parts: Notes = defaultdict(list)
    meanwhile: Notes = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, threads.pool(device) as pool:
        bare = {
            f"bare, {'compiled' if compiled else 'uncompiled'}, workers of {batch}": bare_rate(
                run, images, labels, batch, compiled, pool, BURST
            )
            for batch, compiled in SETTINGS
        }
        fmtool.write(model, f"{folder}/model")

        def command(n: int, *more: str) -> float:
            """Image-steps a second of one command, without its pauses; notes its parts and what was timed in the pauses."""
            line = ["fit-masks", f"{folder}/model", "--data", f"{folder}/{n}.safetensors", "--for", "essential"]
            line += ["--lambda", str(LAMBDA), "--device", given.device, "--quiet", "--restart", "-o", f"{folder}/masks"]
            line += [*given.options.split(), *more]
            moments, rates = _interrupted(line, lambda: [work() for work in bare.values()])
            parts[n].append([b - a for a, b in itertools.pairwise(moments)])
            meanwhile[n].append([statistics.mean(values) for values in zip(*rates, strict=True)])
            return int(fmtool.read(f"{folder}/masks")["steps"].sum()) / (moments[-1] - moments[0])

        for n in (WARM_UP, *given.images):
            part = fmtool.load_data(given.data, limit=n)
            save_file({"images": part.pixels(), "labels": part.labels}, f"{folder}/{n}.safetensors")
        command(WARM_UP, "--compile")  # compiled code is kept from here on
        del parts[WARM_UP], meanwhile[WARM_UP]
        commands = {f"fit-masks, {n} images": (lambda n=n: command(n)) for n in given.images}
        found = rounds({"authors' loop": loop, **commands}, given.rounds)

    slow = found.pop("authors' loop")
    rows = [["authors' loop", spread(slow, ".0f"), "1"]]
    for k, name in enumerate(bare):
        rows.append([name, spread([rates[k] for n in given.images for rates in meanwhile[n]], ".0f")])
    for n, (name, values) in zip(given.images, found.items(), strict=True):
        bound = [max(rates) for rates in meanwhile[n]]
        shown = [spread(values, ".0f"), ratio(values, slow, ".1f"), spread(bound, ".0f"), ratio(values, bound)]
        rows.append([name, *shown, *(spread(list(seconds), ".1f") for seconds in zip(*parts[n], strict=True))])
    columns = ["", "image-steps a second", "times the loop", "bound", "of the bound", *(f"{name}, s" for name in PARTS)]
    show(
        "Whole commands: ResNet-20, float32, second run",
        columns,
        [row + [""] * (len(columns) - len(row)) for row in rows],
        [
            f"Medians, lowest and highest of {given.rounds} rounds. Every {EVERY:g} s the command is stopped while each bare "
            "classifier is timed; the bound is the best of their means over the command. import: up to the first read of the "
            "model; start: up to the first step; full: until no image waits; tail: until the last mask; end: writing and leaving."
        ],
    )


def _interrupted(line: list[str], timings: Callable[[], list[float]]) -> tuple[list[float], list[list[float]]]:
    """Run `_command` in a process, and `timings` in pauses of it.

    Gives the command's moments, its start first and its end last, on a clock that stands still in pauses; and all timings.
    """
    pauses: list[tuple[float, float]] = []
    rates = []
    started = time.time()
    environment = {**os.environ, "WHOLE_COMMAND": json.dumps(line)}
    with subprocess.Popen([sys.executable, __file__], env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            while True:
                try:
                    printed, _ = child.communicate(timeout=EVERY)
                    break
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGSTOP)
                    begun = time.time()
                    rates.append(timings())
                    pauses.append((begun, time.time()))
                    child.send_signal(signal.SIGCONT)
        except BaseException:
            child.kill()
            raise
    ended = time.time()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, "fit-masks")
    moments = [started, *json.loads(printed.splitlines()[-1]), ended]
    stood = [sum(min(end, moment) - begin for begin, end in pauses if begin < moment) for moment in moments]
    return [moment - lost for moment, lost in zip(moments, stood, strict=True)], rates or [timings()]


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

    def first_step(*given: Any) -> Any:
        with lock:
            note("start")
        return run(*given)

    files.read, fit_queue.Job.take, fit_queue.Job.keep, slots.Slots.run = first_read, last_taken, last_kept, first_step  # type: ignore[method-assign, assignment]
    code = run_command(line)
    print(json.dumps([moments[part] for part in PARTS[:-1]]))
    sys.exit(code)


if __name__ == "__main__":
    if "WHOLE_COMMAND" in os.environ:
        _command(json.loads(os.environ["WHOLE_COMMAND"]))
    main()
