"""What the benchmarks share: the classifier and images, rounds of timings side by side, a table of ratios."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, wait

import torch
from torch import Tensor

import fmtool
from fmtool.masks.fit_queue import Fit
from fmtool.masks.fitting import fit_each
from fmtool.masks.optimisation import FitOptions, passes_for_batches
from fmtool.models.classifier import Classifier
from fmtool.models.model_files import from_artifact
from fmtool.runtime import threads
from fmtool.stages.prepare import ReadyModel, ready_model

SECONDS = 3.0  # that a rate is timed for, at least
WAVES = 4  # images that go through a slot in the timing of full slots
Work = Callable[[], float]  # runs something and gives its figure


def arguments(**more: dict[str, object]) -> argparse.Namespace:
    """--weights, --mean, --std, --data and --device, and what `more` names."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--weights", help="ResNet-20's checkpoint; drawn at random without it, which is as fast")
    parser.add_argument("--mean", help="what it wants its inputs normalised by, as 0.485,0.456,0.406")
    parser.add_argument("--std")
    parser.add_argument("--data", default="cifar10:test")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)  # type: ignore[arg-type]
    return parser.parse_args()


def classifiers(given: argparse.Namespace) -> tuple[Classifier, ReadyModel, fmtool.Artifact]:
    """ResNet-20 as it comes, in eval mode with frozen weights; as fmtool runs it, folded; and its file."""
    if given.weights:
        mean, std = ([float(v) for v in text.split(",")] if text else None for text in (given.mean, given.std))
        model = fmtool.import_model(given.weights, architecture="resnet20", mean=mean, std=std)
    else:
        data = fmtool.load_data(given.data, limit=64)
        model = fmtool.train_model(
            data, architecture="resnet20", recipe="one-cycle", epochs=1, execution=fmtool.Execution(device=given.device)
        )
    run = ready_model(model, fmtool.Execution(device=given.device))
    plain = from_artifact(model)[0].eval().requires_grad_(False).to(run.device)
    return plain, run, model


def rate(work: Callable[[], int], seconds: float = SECONDS) -> float:
    """Units a second of `work`, which gives the units of one call, over at least so many seconds."""
    work()
    done, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        done += work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return done / taken


def bare_rate(
    run: ReadyModel,
    images: Tensor,
    labels: Tensor,
    batch: int,
    compiled: bool,
    pool: Executor,
    seconds: float = SECONDS,
) -> Work:
    """Images a second of the bare classifier's forward pass and input gradient, one batch in each worker of the pool."""
    options = FitOptions(0.5, batch, min_steps=1, max_steps=1, compile_=compiled)
    inputs, targets = images[:batch].to(run.device), labels[:batch].to(run.device)
    shape = images.shape[1:]
    passes, _ = pool.submit(passes_for_batches, run.classifier, shape, images.dtype, options, run.device).result()

    def once() -> int:
        passes(inputs, targets)
        return batch

    def work() -> float:
        jobs = [pool.submit(rate, once, seconds) for _ in range(threads.count(run.device))]
        wait(jobs)
        return sum(job.result() for job in jobs)

    return work


def fit_rate(run: ReadyModel, images: Tensor, labels: Tensor, options: FitOptions) -> float:
    """Image-steps a second of mask fitting while every slot has an image: of each worker, from the end of its first wave on.

    Every image takes `options.min_steps` + 1 steps.
    """
    ends: dict[int, list[float]] = {}

    def store(row: int, fit: Fit) -> None:
        ends.setdefault(threading.get_ident(), []).append(time.perf_counter())

    slots = options.batch
    rows = torch.arange(WAVES * slots * threads.count(run.device)) % len(images)
    fit_each(run.classifier, images[rows], labels[rows], options, store, run.device)
    after = [(len(times) - slots, times[-1] - times[slots - 1]) for times in ends.values()]
    return sum(stored * (options.min_steps + 1) / taken for stored, taken in after)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def rounds(works: Mapping[str, Work], count: int) -> dict[str, list[float]]:
    """Each work's figure in each of `count` rounds, one after the other in every round: the machine's mood is shared.

    All of them keep freed memory, as fmtool does.
    """
    threads.keep_freed_memory()
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(count):
        for name, work in works.items():
            found[name].append(work())
            print(f"round {number + 1}: {name}: {found[name][-1]:.4g}", file=sys.stderr, flush=True)
    return found


def spread(values: list[float], form: str = ".3g") -> str:
    """Median, and in brackets the lowest and highest."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratio(above: list[float], below: list[float], form: str = ".2f") -> str:
    """The same of the ratios, round by round."""
    return spread([a / b for a, b in zip(above, below, strict=True)], form)


def show(title: str, columns: list[str], rows: list[list[str]], notes: list[str]) -> None:
    """A Markdown table, with the hardware below it."""
    print(f"\n### {title}\n")
    for line in (columns, ["---"] + ["---:"] * (len(columns) - 1), *rows):
        print("| " + " | ".join(line) + " |")
    print("\n" + "\n".join([*notes, hardware()]), flush=True)


def hardware() -> str:
    """One line: processor or GPU, threads, versions."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{gpu}{torch.get_num_threads()} threads of {model}, torch {torch.__version__}, Python {platform.python_version()}"


def pixels(given: argparse.Namespace, limit: int) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) in [0, 1] and labels (n)."""
    data = fmtool.load_data(given.data, limit=limit)
    return data.pixels(), data.labels
