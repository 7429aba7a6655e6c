"""Worker threads that each run one batch on one thread of torch.

A network on images as small as CIFAR-10's consists of a hundred operations of a tenth of a millisecond each. If all threads
shared every operation, each would end with a wait for the slowest thread; so each thread runs a whole batch on its own. The
result of a batch then doesn't depend on the number of threads either. torch releases the GIL while it computes.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Parameters of glibc's malloc, with values in bytes, and the environment variable and the tunable that set them from outside: it
# gives free memory at a heap's end back from the first on, and takes blocks of the second size or more from the system one by
# one, at most 32 MiB.
MALLOC = (
    (-1, 2**29, "MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold"),
    (-3, 2**25, "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold"),
)


_worker = threading.local()


def count(device: torch.device) -> int:
    """The number of workers for a device: torch's number of threads on the CPU, one on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@cache
def keep_freed_memory() -> None:
    """Let malloc keep what one operation frees for the next one. Otherwise it goes back to the system, which hands it out again
    page by page: an eighth of the time of ResNet-20's two passes. Nothing changes where the user has set it, or without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return
    for parameter, size, variable, tunable in MALLOC:
        if variable not in os.environ and tunable not in os.environ.get("GLIBC_TUNABLES", ""):
            mallopt(parameter, size)


@contextmanager
def pool(device: torch.device, workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that run submitted work; on the CPU each uses one torch thread. After an error, work not yet started is dropped."""
    number = workers or count(device)

    def set_up() -> None:
        if number > 1:
            _worker.own = {}
        if device.type == "cpu":
            torch.set_num_threads(1)
        elif device.index is not None:
            torch.cuda.set_device(device)  # set per thread: streams and graphs are created on it

    keep_freed_memory()
    executor = ThreadPoolExecutor(number, thread_name_prefix="fmtool", initializer=set_up)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def own() -> dict[Any, Any] | None:
    """What this worker keeps for itself as long as its pool lasts; None in a thread that has no fellow workers."""
    return getattr(_worker, "own", None)


@contextmanager
def single(device: torch.device) -> Iterator[None]:
    """In the body this thread computes alone, as a pool's threads do: others that it shared an operation with would wait for the
    next one in a loop, on cores that the pool needs. `count` is 1 then.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batches(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """(n) rows in parts of at most `size`; none if there is no row, where `split` would return an empty part."""
    return torch.split(rows, size) if len(rows) else ()


def in_order(pool: Executor, work: Callable[[Any], T], items: Iterable[Any], ahead: int) -> Iterator[T]:
    """`work` of each item, in order, by the threads of a pool; at most `ahead` items beyond the one that is awaited."""
    rest = iter(items)
    waiting = deque(pool.submit(work, item) for item in islice(rest, ahead))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
    finally:
        for job in waiting:
            job.cancel()
