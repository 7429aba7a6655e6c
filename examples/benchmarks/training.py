"""Augmentation beside torchvision's transforms in a DataLoader, and training beside the bare network on fixed batches.

python examples/benchmarks/training.py --data cifar10:train
"""

from __future__ import annotations

import dataclasses
import time

import torch
import torch.nn.functional as F
from common import arguments, rate, ratio, rounds, show, spread
from torch.utils.data import DataLoader, Dataset

import fmtool
from fmtool.datasets.rows import to_float
from fmtool.models import compiling, training
from fmtool.models.classifier import Classifier, pick_device
from fmtool.models.registry import ARCHITECTURES

BATCH = 64
STEPS = 80  # of training a timing


class Pictures(Dataset):  # type: ignore[type-arg]
    """The usual way: an image at a time through torchvision's transforms."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        from torchvision import transforms

        self.arrays, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.RandomCrop(images.shape[-1], 4), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[row])), self.labels[row]


# Over 60 lines: one table, and what is timed for it.
def main() -> None:
    """Print two tables."""
    given = arguments()
    data = fmtool.load_data(given.data, default="train", limit=BATCH * STEPS)
    images, labels, device = data.images, data.labels, pick_device(given.device)
    draw = torch.Generator().manual_seed(0)

    def loader(count: int) -> float:
        pictures = Pictures(images, labels)
        batches = DataLoader(pictures, BATCH, shuffle=True, num_workers=count, persistent_workers=count > 0)
        for _ in batches:  # starts the processes
            pass
        started = time.perf_counter()
        for _ in batches:
            pass
        return len(pictures) / (time.perf_counter() - started)

    def ours() -> float:
        def ahead() -> int:
            rows = torch.randint(0, len(images), (training.AHEAD,), generator=draw)
            for batch in training.augmented(images[rows], "flip-crop", draw).split(BATCH):
                to_float(batch)
            return training.AHEAD

        return rate(ahead, 2)

    works = {
        **{f"DataLoader, {count} processes": (lambda count=count: loader(count)) for count in (0, 1, 2)},
        "fmtool": ours,
    }
    found = rounds(works, given.rounds)
    best = [max(values) for values in zip(*(found[name] for name in works if name != "fmtool"), strict=True)]
    show(
        "Augmented batches, without a network: flips and 4-pixel crops of CIFAR-10",
        ["", "images a second", "times the best DataLoader"],
        [[name, spread(values, ".0f"), ratio(values, best, ".1f")] for name, values in found.items()],
        [f"Medians, lowest and highest of {given.rounds} rounds, batches of {BATCH}."],
    )
    recipe = dataclasses.replace(training.RECIPES["paper"], epochs=1)

    def fresh() -> Classifier:
        torch.manual_seed(0)
        return Classifier(ARCHITECTURES["resnet20"].build(3, 10)).to(device)

    def bare(compiled: bool) -> float:
        """Images a second of forward, backward and update on one fixed batch."""
        network = fresh().train()
        network.network.to(memory_format=torch.channels_last)
        run = compiling.trainable(network, device) if compiled else network
        optimizer = torch.optim.SGD(network.parameters(), 0.1, training.MOMENTUM, weight_decay=recipe.weight_decay)
        inputs, targets = to_float(images[:BATCH]).to(device), labels[:BATCH].to(device)

        def step() -> int:
            loss = F.cross_entropy(run(inputs), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return BATCH

        return rate(step, 6)

    def trained(compiled: bool) -> float:
        """Images a second of fmtool's loop, from its twentieth step."""
        times: list[float] = []
        training.train(
            fresh(), images, labels, recipe, augment="flip-crop", compile_=compiled, device=device,
            progress=lambda *_: times.append(time.perf_counter()),
        )  # fmt: skip
        return BATCH * (len(times) - 20) / (times[-1] - times[19])

    works = {
        f"{name}, {'compiled' if compiled else 'uncompiled'}": (lambda what=what, compiled=compiled: what(compiled))
        for compiled in (False, True)
        for name, what in (("bare network, fixed batch", bare), ("fmtool", trained))
    }
    found = rounds(works, given.rounds)
    base = {name.split(", ")[-1]: values for name, values in found.items() if name.startswith("bare")}
    show(
        "Training: ResNet-20, batches of 64, flips and crops",
        ["", "images a second", "of the bare network"],
        [
            [name, spread(values, ".0f"), ratio(values, base[name.split(", ")[-1]], ".3f")]
            for name, values in found.items()
        ],
        [f"Medians, lowest and highest of {given.rounds} rounds."],
    )


if __name__ == "__main__":
    main()
