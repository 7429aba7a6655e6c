"""A permutation of IdCor and of SVCCA beside the authors' algorithm, on random data of any size.

python examples/benchmarks/permutations.py --rows 10000 --columns 3072 --directions 1000
"""

from __future__ import annotations

import time

import numpy as np
import torch
from authors import two_nn
from common import arguments, ratio, rounds, show, spread
from numba import njit, prange

from fmtool.correlation.nulls import class_permutation, free_permutation
from fmtool.correlation.statistics import canonical, idcor
from fmtool.correlation.statistics.base import Options
from fmtool.models.classifier import pick_device

CLASSES = 10
SVCCA_PERMUTATIONS = 20  # a round; N = 999 is reckoned from them


@njit(parallel=True)
def _plain_pass(x: np.ndarray, y: np.ndarray, permutation: np.ndarray, nearest: np.ndarray) -> None:
    """The two smallest of x[i, j] + y[permutation[i], permutation[j]] over all j: reads both matrices once."""
    for i in prange(len(x)):
        one, other, first, second = x[i], y[permutation[i]], np.float32(np.inf), np.float32(np.inf)
        for j in range(len(x)):
            at = one[j] + other[permutation[j]]
            if at < second:
                first, second = min(at, first), max(at, first) if at < first else at
        nearest[i, 0], nearest[i, 1] = first, second


# Over 60 lines: one table, and what is timed for it.
def main() -> None:
    """Print two tables."""
    given = arguments(
        rows={"type": int, "default": 10_000},
        columns={"type": int, "default": 3072},
        permutations={"type": int, "default": 1000},
        directions={"type": int, "default": 1000, "help": "of SVCCA"},
    )
    device, n = str(pick_device(given.device)), given.rows
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, given.columns, generator=draw) for _ in range(2))
    labels = (torch.arange(n) % CLASSES).short()
    small = torch.randn(200, 5, generator=draw).double()
    idcor.prepare(small, small, Options(device=device)).shuffled(torch.randperm(200))  # Numba compiles
    started = time.perf_counter()
    prepared = idcor.prepare(x.double(), y.double(), Options(device=device))
    preparing = time.perf_counter() - started

    def null(drawn: object) -> float:
        """Seconds a permutation over all N."""
        started = time.perf_counter()
        for number in range(given.permutations):
            prepared.shuffled(drawn(number))  # type: ignore[operator]
        return (time.perf_counter() - started) / given.permutations

    def authors() -> float:
        """Seconds of one shuffled concatenation's TwoNN, distances and all."""
        started = time.perf_counter()
        two_nn(torch.cat([x, y[torch.randperm(n)]], dim=1).to(device))
        return time.perf_counter() - started

    squared = torch.cdist(x[: min(n, 10_000)], x[: min(n, 10_000)]).square_().numpy()
    nearest = np.empty((len(squared), 2), dtype=np.float32)

    def plain() -> float:
        """Seconds of a pass over two whole matrices, which is what the memory allows without sorted lists."""
        order = free_permutation(len(squared), 0, 1).numpy().astype(np.uint32)
        _plain_pass(squared[:64, :64], squared[:64, :64], order[:64] % 64, nearest[:64])
        started = time.perf_counter()
        _plain_pass(squared, squared, order, nearest)
        return time.perf_counter() - started

    works = {
        "authors: cdist and topk of the concatenation": authors,
        "a plain pass over both matrices": plain,
        "fmtool, free": lambda: null(lambda number: free_permutation(n, 0, number)),
        "fmtool, within classes": lambda: null(lambda number: class_permutation(labels, 0, number)),
    }
    found = rounds(works, given.rounds)
    base = found["authors: cdist and topk of the concatenation"]
    whole = spread([preparing + given.permutations * value for value in found["fmtool, free"]], ".1f")
    show(
        f"A permutation of IdCor: n = {n}, {given.columns} columns a side",
        ["", "ms", "times as fast as the authors'"],
        [
            [name, spread([1e3 * value for value in values]), ratio(base, values, ".3g")]
            for name, values in found.items()
        ],
        [
            f"fmtool: means over {given.permutations} permutations. Distances and neighbours of both sides, once: "
            f"{preparing:.1f} s; with {given.permutations} free permutations {whole} s."
        ],
    )
    _svcca(given, device, draw)


def _svcca(given: object, device: str, draw: torch.Generator) -> None:
    """SVCCA's null, from bases that are already orthonormal, so that exactly so many directions are kept."""
    n, k = given.rows, given.directions  # type: ignore[attr-defined]
    bases = [torch.linalg.qr(torch.randn(n, k, generator=draw, dtype=torch.float64)).Q for _ in range(2)]

    def authors() -> float:
        """Seconds of a shuffled CCA that centres and factorises both sides anew."""
        started = time.perf_counter()
        sides = [side - side.mean(dim=0) for side in (bases[0], bases[1][torch.randperm(n)])]
        left, right = (torch.linalg.svd(side.to(device), full_matrices=False).U for side in sides)
        torch.linalg.svdvals(left.T @ right).mean().item()
        return time.perf_counter() - started

    prepared = canonical.prepared_of(
        *(canonical.Directions(basis - basis.mean(dim=0)) for basis in bases), Options(device=device)
    )

    def ours() -> float:
        started = time.perf_counter()
        for number in range(SVCCA_PERMUTATIONS):
            prepared.shuffled(free_permutation(n, 0, number))
        return (time.perf_counter() - started) / SVCCA_PERMUTATIONS

    found = rounds({"authors: both sides factorised anew": authors, "fmtool": ours}, given.rounds)  # type: ignore[attr-defined]
    base = found["authors: both sides factorised anew"]
    show(
        f"A permutation of SVCCA: n = {n}, {k} directions a side",
        ["", "ms", "times as fast as the authors'"],
        [
            [name, spread([1e3 * value for value in values]), ratio(base, values, ".3g")]
            for name, values in found.items()
        ],
        [f"999 permutations at this rate: {spread([999 * value for value in found['fmtool']], '.0f')} s."],
    )


if __name__ == "__main__":
    main()
