"""Each statistic with both nulls at the paper's size: time, how it grows with n, and peak memory, on random data like masks.

python examples/benchmarks/correlations.py --rows 9000                  few shuffles, from which the time of all is reckoned
python examples/benchmarks/correlations.py --rows 9000 --statistics svcca --shuffles 999        all of them
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time

import torch
from common import arguments, show
from torch import Tensor

from fmtool.correlation.evaluate import Pairs, prepare
from fmtool.correlation.nulls import class_permutation, free_permutation
from fmtool.correlation.statistics.base import Options
from fmtool.masks.basis import basis_for

PERMUTATIONS = 999  # of each of the two nulls
CLASSES = 10
CHANNELS, SIZE = 3, 32
# As masks of ResNet-20 on CIFAR-10: some 8 entries above 1e-3 and 63 below it, the former with a share of about 0.0006 / r at
# radial frequency r, but most of them in few columns; smaller ones are spread evenly over six decades.
LARGE, UNEVEN, ZERO = 0.0006, 2.5, 0.84
SMALL, DECADES = 0.0095, (-8.5, -3.0)


def masks(n: int, draw: torch.Generator) -> Tensor:
    """Random masks, flattened over the full spectrum: (n, 3072) float64, equal at k and -k as real masks are."""
    basis = basis_for("fourier", SIZE, SIZE)
    assert basis.frequencies is not None
    frequencies = torch.as_tensor(basis.frequencies)
    radius = frequencies.clamp(min=0.5 / SIZE)
    shape = (CHANNELS, *basis.shape)
    favoured = torch.exp(UNEVEN * torch.randn(shape, generator=torch.Generator().manual_seed(1)) - UNEVEN**2 / 2)
    share = (LARGE / radius * favoured).clamp(max=ZERO).where(frequencies > 0, ZERO)
    large, small = (torch.rand((n, *shape), generator=draw) for _ in range(2))
    low, high = DECADES
    residue = 10.0 ** (low + (high - low) * torch.rand((n, *shape), generator=draw))
    values = torch.rand((n, *shape), generator=draw) ** 2
    stored = values.where(large < share, residue.where(small < SMALL / radius**0.6, 0.0))
    return basis.to_full(basis.symmetrise_(stored.double())).flatten(1)


def measure(name: str, n: int, shuffles: int) -> tuple[float, float, float, float]:
    """Seconds of preparing, of one free and of one within-class shuffle, and peak memory in GiB, of a new process."""
    draw = torch.Generator().manual_seed(0)
    x, y = masks(n, draw), masks(n, draw)
    labels = (torch.arange(n) % CLASSES).short()
    few = Pairs(x[:64], y[:64], None)
    prepare(name, few, Options()).shuffled(torch.randperm(64))  # Numba compiles
    started = time.perf_counter()
    prepared = prepare(name, Pairs(x, y, None), Options())
    preparing = time.perf_counter() - started
    each = []
    for drawn in (lambda k: free_permutation(n, 0, k), lambda k: class_permutation(labels, 0, k)):
        started = time.perf_counter()
        for number in range(shuffles):
            prepared.shuffled(drawn(number))
        each.append((time.perf_counter() - started) / shuffles)
    print(f"{name}, n = {n}: {prepared.details}", flush=True)
    return preparing, each[0], each[1], peak()


def peak() -> float:
    """GiB of this process at most."""
    with open(f"/proc/{os.getpid()}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    """Print one table."""
    given = arguments(
        rows={"type": int, "nargs": "+", "default": [1000, 2000, 4000, 9000]},
        statistics={"default": "idcor,svcca,cosine,cka,dcor,pwcca"},
        shuffles={"type": int, "default": 5, "help": "of each null, from which the time of 999 is reckoned"},
    )
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in given.statistics.split(","):
            before: tuple[int, float] | None = None
            for n in given.rows:
                preparing, free, within, memory = pool.apply(measure, (name, n, given.shuffles))
                shuffle = (free + within) / 2
                growth = "" if before is None else f"{math.log(shuffle / before[1]) / math.log(n / before[0]):.1f}"
                whole = preparing + PERMUTATIONS * (free + within)
                rows.append(
                    [name, str(n), f"{preparing:.1f}", f"{1e3 * shuffle:.3g}", growth, f"{whole:.0f}", f"{memory:.1f}"]
                )
                before = n, shuffle
    show(
        "A statistic with both nulls",
        ["statistic", "n", "once, s", "a shuffle, ms", "growth", f"{PERMUTATIONS} of each null, s", "peak memory, GiB"],
        rows,
        [f"{given.shuffles} shuffles of each null timed. Growth: the exponent of n from the row above, of a shuffle."],
    )


if __name__ == "__main__":
    main()
