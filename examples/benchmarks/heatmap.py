"""The passes of a heat map beside bare forward passes of the same network in the same batches.

python examples/benchmarks/heatmap.py --weights resnet20-12fca82f.th --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import time

import torch
from common import arguments, classifiers, pixels, ratio, rounds, show, spread

from fmtool.masks.heatmap import Evaluation, default_norm, distinct_frequencies, sensitivity
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL


def main() -> None:
    """Print one table, in passes of one image per second."""
    given = arguments(images={"type": int, "default": 10, "help": "images of the heat map"})
    _, ready, _ = classifiers(given)
    images, labels = pixels(given, given.images)
    h, w = images.shape[2:]
    passes = len(images) * len(distinct_frequencies(h, w)[0])
    batches = -(-passes // ready.batch)
    some = images[torch.arange(ready.batch) % len(images)].to(ready.device)

    networks = {"as it is": ready.classifier, "compiled": ready.network(True)}

    @torch.no_grad()
    def one_batch(name: str) -> None:
        networks[name](some)

    def bare(name: str) -> float:
        started = time.perf_counter()
        with threads.pool(ready.device) as pool:
            for _ in pool.map(one_batch, [name] * batches):
                pass
        return batches * ready.batch / (time.perf_counter() - started)

    def heatmap(name: str) -> float:
        evaluation = Evaluation(networks[name], ready.batch, ready.device, None, NO_JOURNAL)
        started = time.perf_counter()
        sensitivity(evaluation, images, labels, range(len(images)), default_norm(h, w), filters=False)
        return passes / (time.perf_counter() - started)

    works = {
        f"{kind}, {name}": (lambda work=work, name=name: work(name))
        for name in networks
        for kind, work in (("bare", bare), ("heat map", heatmap))
    }
    found = rounds(works, given.rounds)
    rows = [
        [
            name,
            spread(found[f"bare, {name}"], ".0f"),
            spread(found[f"heat map, {name}"], ".0f"),
            ratio(found[f"heat map, {name}"], found[f"bare, {name}"]),
        ]
        for name in networks
    ]
    notes = [f"{len(images)} images, {passes} passes in batches of {ready.batch}; median (lowest to highest)."]
    show("Heat map: passes per second", ["network", "bare forward", "heat map", "ratio"], rows, notes)


if __name__ == "__main__":
    main()
