"""The passes of a heat map beside bare forward passes of the same network in the same batches.

python examples/benchmarks/heatmap.py --weights resnet20-12fca82f.th --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from common import arguments, classifiers, pixels, ratio, rounds, show, spread

from fmtool.masks.heatmap import Evaluation, Passes, default_norm, distinct_frequencies, sensitivity
from fmtool.models import compiling
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
    targets = labels[torch.arange(ready.batch) % len(labels)].to(ready.device)

    def forward(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = ready.classifier(images)
        return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1)

    networks = {"as it is": forward, "compiled": compiling.compiled(forward, some, targets) or forward}

    @torch.no_grad()
    def one_batch(name: str) -> None:
        networks[name](some, targets)

    def bare(name: str) -> float:
        started = time.perf_counter()
        with threads.pool(ready.device) as pool:
            for _ in pool.map(one_batch, [name] * batches):
                pass
        return batches * ready.batch / (time.perf_counter() - started)

    def heatmap(name: str) -> float:
        class Ready(Evaluation):
            def passes(self, images: torch.Tensor, labels: torch.Tensor) -> Passes:
                return networks[name]  # compiled before the clock starts

        evaluation = Ready(ready.classifier, ready.batch, ready.device, False, None, NO_JOURNAL)
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
