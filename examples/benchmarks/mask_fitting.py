"""Image-steps a second of `fit-masks` beside the authors' loop and beside the bare classifier, and what the last images cost.

python examples/benchmarks/mask_fitting.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import time
from concurrent.futures import Executor

import torch
from authors import fit_one
from common import Work, arguments, bare_rate, classifiers, fit_rate, pixels, rate, ratio, rounds, show, spread

from fmtool.masks.fitting import Fit, fit_each
from fmtool.masks.optimisation import FitOptions, passes_for_batches
from fmtool.models.classifier import batch_size
from fmtool.runtime import threads as workers
from fmtool.stages.options import MAX_STEPS, MIN_STEPS

LAMBDA = 0.5
LOOP_STEPS = 300  # of the authors' loop a timing
FIT_STEPS = 200  # of every image in the timing of full slots
BATCHES = (8, 16, 32, 64)


# Over 60 lines: one table, and what is timed for it.
def main() -> None:
    """Print two tables."""
    given = arguments(tail={"type": int, "default": 200, "help": "images of the run to the end; 0: leave it out"})
    plain, run, _ = classifiers(given)
    slots = batch_size(run.spec.input_shape, run.device)
    images, labels = pixels(given, max(1000, 2 * given.tail, 2 * slots))
    right = (
        torch.cat([run.classifier(part.to(run.device)).argmax(1).cpu() for part in images.split(64)]) == labels
    ).nonzero()
    chosen = right.flatten() if given.weights else torch.arange(len(labels))
    images, labels = images[chosen], labels[chosen]
    device, threads, count = run.device, torch.get_num_threads(), workers.count(run.device)

    def loop(count: int) -> float:
        """Steps a second of the loop, with so many threads of torch."""
        torch.set_num_threads(count)
        image, target = images[0].to(device), int(labels[0])
        fit_one(plain, image, target, LAMBDA, max_steps=20)
        started = time.perf_counter()
        fit_one(plain, image, target, LAMBDA, min_steps=LOOP_STEPS, max_steps=LOOP_STEPS - 1)
        taken = time.perf_counter() - started
        torch.set_num_threads(threads)
        return LOOP_STEPS / taken

    def options(batch: int, compiled: bool) -> FitOptions:
        return FitOptions(LAMBDA, batch, min_steps=FIT_STEPS - 1, max_steps=FIT_STEPS - 1, compile_=compiled)

    def bare(batch: int, compiled: bool, count: int, pool: Executor) -> float:
        """Images a second through both passes alone: one batch by all threads, or one in each of `count` workers."""
        if count == 1 and device.type == "cpu":  # one batch, whose every piece is shared by all threads
            inputs, targets = images[:batch], labels[:batch]
            passes, _ = passes_for_batches(
                run.classifier, images.shape[1:], images.dtype, options(batch, compiled), device
            )

            def once() -> int:
                passes(inputs, targets)
                return batch

            return rate(once)
        if (batch, compiled) not in kept:
            kept[batch, compiled] = bare_rate(run, images, labels, batch, compiled, pool)
        return kept[batch, compiled]()

    def fit() -> float:
        return fit_rate(run, images, labels, options(slots, True))

    kept: dict[tuple[int, bool], Work] = {}
    with workers.pool(device) as pool:
        batches = sorted({*BATCHES, slots})
        layouts = [(batch, compiled, each) for compiled in (False, True) for batch in batches for each in {1, count}]
        first = {layout: bare(*layout, pool) for layout in layouts}
        best = sorted(first, key=lambda layout: -first[layout])[:2]
        names = {_name(*layout): layout for layout in best}
        works = {
            **{f"authors' loop, {n} thread{'s'[: n > 1]}": (lambda n=n: loop(n)) for n in {1, threads}},
            **{name: (lambda layout=layout: bare(*layout, pool)) for name, layout in names.items()},
            "fmtool": fit,
        }
        found = rounds(works, given.rounds)
    loops = [max(values) for values in zip(*(found[name] for name in found if name.startswith("authors")), strict=True)]
    bound = [max(values) for values in zip(*(found[name] for name in names), strict=True)]
    rows = [[name, spread(values, ".0f"), ratio(values, loops), ratio(values, bound)] for name, values in found.items()]
    show(
        f"Mask fitting: ResNet-20, {'x'.join(map(str, images.shape[1:]))}, float32, every slot busy",
        ["", "image-steps a second", "times the loop", "of the bound"],
        rows,
        [
            f"Medians, lowest and highest of {given.rounds} rounds. The bound: the bare classifier, forward and input gradient, "
            "at the faster of its two best settings; the loop has the better number of threads.",
            "All settings of the bare classifier, once: "
            + ", ".join(
                f"{_name(*layout)} {value:.0f}" for layout, value in sorted(first.items(), key=lambda item: item[1])
            ),
        ],
    )
    if given.tail:
        _tail(given.tail, images, labels, run, max(found["fmtool"]))


def _name(batch: int, compiled: bool, count: int) -> str:
    shared = f"{count} workers of {batch}" if count > 1 else f"batch {batch}"
    return f"bare, {'compiled' if compiled else 'uncompiled'}, {shared}"


def _tail(n: int, images: torch.Tensor, labels: torch.Tensor, run: object, full: float) -> None:
    """A real run to its end: the share of its time beyond what its image-steps take with every slot busy."""
    ends: list[tuple[float, int]] = []

    def store(row: int, fit: Fit) -> None:
        ends.append((time.perf_counter(), fit.steps))

    device, classifier = run.device, run.classifier  # type: ignore[attr-defined]
    batch = batch_size(images.shape[1:], device)
    started = time.perf_counter()
    fit_each(
        classifier,
        images[:n],
        labels[:n],
        FitOptions(LAMBDA, batch, MIN_STEPS, MAX_STEPS, compile_=True),
        store,
        device,
    )
    taken, steps = ends[-1][0] - started, [count for _, count in ends]
    ideal = sum(steps) / full
    show(
        "The last images' tail",
        ["images", "slots", "image-steps", "mean steps", "most steps", "seconds", "with every slot busy", "tail"],
        [
            [
                str(len(ends)), str(batch * workers.count(device)), str(sum(steps)), f"{sum(steps) / len(steps):.0f}",
                str(max(steps)), f"{taken:.0f}", f"{ideal:.0f}", f"{100 * (1 - ideal / taken):.0f} %",
            ]
        ],
        ["seconds include compiling; tail: the share of them beyond the time that the image-steps take with every slot busy."],
    )  # fmt: skip


if __name__ == "__main__":
    main()
