"""`check-masks`, `defend` and `class-masks` beside the bare classifier's passes, uncompiled and compiled.

    python examples/benchmarks/passes.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, wait
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from common import Work, arguments, bare_rate, classifiers, pixels, rate, ratio, rounds, show, spread
from torch import Tensor

import fmtool
from fmtool.runtime import threads
from fmtool.stages.prepare import ReadyModel

FORMS = {"uncompiled": False, "compiled": True}
STEPS = 30  # of class masks


class Clock:
    """Progress that remembers when each part was done: start and compiling, before the first, don't count."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.done: list[int] = []

    def __call__(self, label: str, done: int, total: int) -> None:
        self.times.append(time.perf_counter())
        self.done.append(done)

    def seconds(self) -> float:
        """From the end of the first part to the end of the last."""
        return self.times[-1] - self.times[0]


# Over 60 lines: one table, and what is timed for it.
def main() -> None:
    """Print one table, in passes of one image per second."""
    given = arguments(images={"type": int, "default": 640})
    _, ready, model = classifiers(given)
    images, labels = pixels(given, given.images)
    data = fmtool.load_data(given.data, limit=given.images)

    def execution(clock: Clock | None = None) -> fmtool.Execution:
        return fmtool.Execution(device=given.device, progress=clock)

    attacked = {
        name: fmtool.attack(
            model, data, attack="pgd", attack_options={"steps": 1}, compile_=form, execution=execution()
        )
        for name, form in FORMS.items()
    }
    few: dict[str, Any] = {"min_steps": 0, "max_steps": 0, "execution": execution()}
    masks = _sparse(fmtool.fit_masks(model, attacked["uncompiled"], **few))
    of_classes = fmtool.class_masks(model, attacked["uncompiled"], **few)

    def check_masks(name: str) -> float:
        clock = Clock()
        check = fmtool.check_masks(model, attacked[name], masks, execution=execution(clock))
        ways = sum(control.n * (check.draws if control.name == "random places" else 1) for control in check.controls)
        return (ways - ready.batch) / clock.seconds()

    def defend(name: str) -> float:
        clock = Clock()
        fmtool.defend(model, [attacked[name]], [of_classes, of_classes], execution=execution(clock))
        return (2 * 5 * len(data) - ready.batch) / clock.seconds()  # two rows: one pass, and twice two

    def class_masks(name: str) -> float:
        clock, steps = Clock(), {"min_steps": STEPS, "max_steps": STEPS}
        fmtool.class_masks(model, attacked[name], **steps, compile_=FORMS[name], execution=execution(clock))
        return (clock.done[-1] - clock.done[0]) / clock.seconds()

    stages: dict[str, tuple[str, Callable[[str], float]]] = {
        "check-masks": ("forward", check_masks),
        "defend": ("forward", defend),
        "class-masks": ("forward and gradient", class_masks),
    }
    with threads.pool(ready.device) as pool:
        works: dict[str, Work] = {}
        for name, form in FORMS.items():
            bare = {
                "forward": forward_rate(ready, images, form, pool),
                "forward and gradient": bare_rate(ready, images, labels, ready.batch, form, pool),
            }
            for stage, (passes, work) in stages.items():
                works[f"bare, before {stage}, {name}"] = bare[passes]
                works[f"{stage}, {name}"] = lambda work=work, name=name: work(name)
                works[f"bare, after {stage}, {name}"] = bare[passes]
        found = rounds(works, given.rounds)
    rows = []
    for name in FORMS:
        for stage, (passes, _) in stages.items():
            of = f"{stage}, {name}"
            bound = [mean(both) for both in zip(found[f"bare, before {of}"], found[f"bare, after {of}"], strict=True)]
            rows.append([of, passes, spread(bound, ".0f"), spread(found[of], ".0f"), ratio(found[of], bound)])
    show(
        "The passes between, of one image per second",
        ["", "passes", "bare", "fmtool", "ratio"],
        rows,
        [
            f"ResNet-20, {len(data)} images in batches of {ready.batch}; medians, lowest and highest of {given.rounds} rounds. "
            "bare: the mean of before and after. From the first result on: start and compiling don't count."
        ],
    )


def _sparse(masks: fmtool.Artifact) -> fmtool.Artifact:
    """The same file with masks as sparse as fitted ones: 70 entries that are not 0, at places where entries count twice."""
    values = torch.zeros_like(masks["masks"])
    interior = values[..., 1:-1]
    places = torch.rand(len(values), interior[0].numel(), generator=torch.Generator().manual_seed(0)).topk(70).indices
    drawn = torch.zeros(len(values), interior[0].numel()).scatter_(1, places, torch.rand(places.shape))
    interior.copy_(drawn.view(interior.shape))
    return replace(masks, tensors={**masks.tensors, "masks": values})


def forward_rate(run: ReadyModel, images: Tensor, compiled: bool, pool: Executor) -> Work:
    """Images a second of the bare classifier's forward pass, one batch in each worker of the pool."""
    network, inputs = run.network(compiled), images[: run.batch].to(run.device)

    @torch.no_grad()
    def once() -> int:
        network(inputs)
        return len(inputs)

    def work() -> float:
        jobs = [pool.submit(rate, once) for _ in range(threads.count(run.device))]
        wait(jobs)
        return sum(job.result() for job in jobs)

    return work


if __name__ == "__main__":
    main()
