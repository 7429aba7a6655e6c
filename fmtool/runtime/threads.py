"""Worker threads that each run one batch on one thread of torch.

A network on images as small as CIFAR-10's is a hundred pieces of work of a tenth of a millisecond each. Shared by all
threads, every piece ends with a wait for the slowest one; so each thread takes a batch of its own from first to last piece.
What a batch gives does then not depend on the number of threads either. torch releases Python's lock while it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor


def count(device: torch.device) -> int:
    """Workers for a device: as many as torch has threads on the CPU, one on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def pool(device: torch.device, workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that run submitted work; on the CPU each has one thread of torch. Work not begun is dropped on an error."""

    def set_up() -> None:
        if device.type == "cpu":
            torch.set_num_threads(1)
        elif device.index is not None:
            torch.cuda.set_device(device)  # a thread's own; streams and graphs are made there

    executor = ThreadPoolExecutor(workers or count(device), thread_name_prefix="fmtool", initializer=set_up)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def batches(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """(n) rows in parts of at most `size`; none where there is no row, of which `split` makes an empty part."""
    return torch.split(rows, size) if len(rows) else ()
