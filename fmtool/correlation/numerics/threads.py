"""One thread for small work, which is repeated a thousand times.

Threads wait for each other at the end of every parallel section. If the processors are shared with other work, each wait
may cost 8 ms, a scheduler's time slice: measured beside two busy processes on two cores, a shuffle of 300 rows takes 0.2 ms
on one thread and 8 ms on two. On idle processors, one thread is just as fast for such small work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def one_thread_if(small: bool) -> Iterator[None]:
    """Run the body on one thread of torch and of numba if the work is small, else change neither."""
    if not small:
        yield
        return
    of_torch, of_numba = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        numba.set_num_threads(of_numba)
