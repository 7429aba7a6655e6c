"""Passes where malloc keeps freed memory, as fmtool tells it to, beside malloc as it comes.

    python examples/benchmarks/allocation.py --weights resnet20.th --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

As it comes, malloc also keeps memory from when a large block is freed, so what it does depends on what a process did before.
Here it has only read the network.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch
from common import SECONDS, arguments, bare_rate, classifiers, ratio, show, spread
from passes import forward_rate

from fmtool.runtime import threads

FORMS = {"as it comes": "no", "kept": "yes"}
FAULTS = ": page faults"  # after the name of what is timed


def main() -> None:
    """Print one table; each form of each round runs in a process of its own, since malloc is set once and for all."""
    given = arguments(kept={"choices": list(FORMS.values()), "help": "only print this form's figures, as JSON"})
    if given.kept:
        if given.kept == "no":
            threads.keep_freed_memory = lambda: None  # type: ignore[assignment]
        print(json.dumps(figures(given)))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(given.rounds):
        for form, kept in FORMS.items():
            line = [sys.executable, __file__, *sys.argv[1:], "--kept", kept]
            printed = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout
            print(f"round {number + 1}: {form}: {printed.strip()}", file=sys.stderr, flush=True)
            for name, figure in json.loads(printed).items():
                found.setdefault(name, {}).setdefault(form, []).append(figure)
    show(
        "Freed memory that is kept",
        [
            "",
            *(f"{form}, images a second" for form in FORMS),
            "ratio",
            *(f"{form}, page faults a pass" for form in FORMS),
        ],
        [
            [
                name,
                *(spread(of[form], ".0f") for form in FORMS),
                ratio(of["kept"], of["as it comes"]),
                *(spread(found[name + FAULTS][form], ".0f") for form in FORMS),
            ]
            for name, of in found.items()
            if not name.endswith(FAULTS)
        ],
        [f"ResNet-20; medians, lowest and highest of {given.rounds} rounds, a process each."],
    )


def figures(given: argparse.Namespace) -> dict[str, float]:
    """Images a second by what is timed, and page faults a pass."""
    _, ready, _ = classifiers(given)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(ready.batch, *ready.spec.input_shape, generator=draw)
    labels = torch.zeros(ready.batch, dtype=torch.int64)
    found: dict[str, float] = {}
    with threads.pool(ready.device) as pool:
        for compiled, form in ((False, "uncompiled"), (True, "compiled")):
            for name, work in (
                ("forward and gradient", bare_rate(ready, images, labels, ready.batch, compiled, pool)),
                ("forward", forward_rate(ready, images, compiled, pool)),
            ):
                work()
                before = faults()
                found[f"{name}, {form}"] = work()
                passes = found[f"{name}, {form}"] * SECONDS / ready.batch
                found[f"{name}, {form}{FAULTS}"] = (faults() - before) / passes
    return found


def faults() -> int:
    """Pages that the system has handed out to this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main()
