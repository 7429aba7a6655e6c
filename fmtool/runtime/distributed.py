"""Several processes that share a job under torchrun: each computes its rank's rows.

A rank takes every Nth row, so that its part is a representative sample of the data, and sends its rows to rank 0, which writes
the file. Rows are on the CPU by then, so gloo carries them; NCCL is set up as well if there are GPUs. Importing this module
needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.output import STREAM
from fmtool.artifacts.progress import Progress
from fmtool.errors import FmtoolError, FmtoolWarning, ProcessError, first_line, warn

if TYPE_CHECKING:
    from torch import Tensor

LOOK_EVERY = 0.1  # seconds between polls of the other ranks: a wait inside the library can't be interrupted
FAREWELL = 10.0  # seconds at most that rank 0 waits at its end for the others to end too
LONGEST = timedelta(days=30)  # that one rank waits for another, as some finish days before the last
FAILED = "failed"  # the key of a rank that ended with an error
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


@dataclass(frozen=True)
class Ranks:
    """The processes that share a job; this one is number `rank`, from 0. They exchange messages through `store`."""

    rank: int = 0
    of: int = 1
    store: Any = None
    told: list[str] = field(
        default_factory=list
    )  # warnings so far; those of the other ranks reach the reader through rank 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the result."""
        return self.rank == 0

    def rows(self, rows: Sequence[int]) -> Sequence[int]:
        """This process's share."""
        return rows[self.rank :: self.of]

    def device(self, name: str) -> str:
        """A separate GPU for each process on a machine, unless --device names one."""
        if self.of == 1 or name not in ("auto", "cuda"):
            return name
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % count}" if count else name

    def check_form(self, compiled: bool) -> None:
        """ProcessError on a rank whose network runs compiled, or doesn't, unlike that of rank 0: one form is recorded."""
        here, there = ("compiled", "uncompiled") if compiled else ("uncompiled", "compiled")
        self._check_same(
            "form",
            str(compiled),
            f"the network runs {here} in process {self.rank} but {there} in process 0: pass --no-compile, or fix the compiler",
        )

    def check_work(self, key: str) -> None:
        """ProcessError on a rank whose key of inputs, options and versions isn't that of rank 0, which records its own."""
        self._check_same(
            "work",
            key,
            f"process {self.rank} has other inputs, options or versions than process 0: is a copy of a file out of date?",
        )

    def _check_same(self, name: str, value: str, otherwise: str) -> None:
        if self.of == 1:
            return
        if self.leads:
            self.store.set(name, value)
        self._wait_for(name)
        if self.store.get(name).decode() != value:
            raise ProcessError(otherwise)

    def gathered(
        self, own: Iterable[tuple[int, bytes]], progress: Progress | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """On rank 0: its own numbered rows, then those of the other ranks, one row at a time, with their warnings."""
        yield from own
        for rank in range(1, self.of):
            self._wait_for(f"finished {rank}", progress, rank)
            for text in json.loads(self.store.get(f"finished {rank}")):
                if text not in self.told:
                    warn(f"process {rank}: {text}")
            self.store.set(f"turn of {rank}", "")
            with _peer(rank):
                yield from _received(rank)

    def hand_over(self, own: Iterable[tuple[int, bytes]]) -> None:
        """On the other ranks: send these rows to rank 0, then wait until the result is written."""
        self.store.set(f"finished {self.rank}", json.dumps(self.told))
        self._wait_for(f"turn of {self.rank}")
        with _peer(0):
            _send(own)
        self._wait_for("written")
        self.store.set(f"left {self.rank}", "")

    def written(self) -> None:
        """On rank 0: tell the others that the result is written, and wait until they know: this process may hold the store."""
        if self.of > 1:
            self.store.set("written", "")
            deadline = time.monotonic() + FAREWELL
            others = [f"left {rank}" for rank in range(1, self.of)]
            while time.monotonic() < deadline and not all(map(self._knows, others)):
                time.sleep(LOOK_EVERY)

    def _wait_for(self, key: str, progress: Progress | None = None, done: int = 0) -> None:
        while not self._knows(key):
            if self._knows(FAILED):
                raise ProcessError(f"process {self.store.get(FAILED).decode()} has ended with an error")
            if progress:
                progress("waiting for other processes", done, self.of)
            time.sleep(LOOK_EVERY)

    def _knows(self, key: str) -> bool:
        with _peer(0):  # which has the store
            return bool(self.store.check([key]))


ALONE = Ranks()


def world() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun sets them; else (0, 1). FmtoolError for impossible values."""
    if not all(name in os.environ for name in VARIABLES):
        return 0, 1
    numbers = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")]
    rank, of, port = (int(text) if re.fullmatch("[0-9]{1,9}", text) else -1 for text in numbers)
    if not (0 <= rank < of and 0 <= port < 2**16):
        given = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES)
        raise FmtoolError(
            f"the environment has {given}, which torchrun would not set: expected its values, or none of these variables"
        )
    return rank, of


def refuse_ranks(command: str, commands: Iterable[str]) -> None:
    """FmtoolError under torchrun for a command that several processes can't share."""
    if world()[1] > 1 and command not in commands:
        raise FmtoolError(
            f"{command} runs in one process: expected {' or '.join(commands)} under torchrun, or one process"
        )


@contextmanager
def joined(*sources: str | None) -> Iterator[Ranks]:
    """The processes that torchrun started, for the duration of the block; `ALONE` without torchrun.

    sources: the files that each process reads. FmtoolError for standard input, which they can't share.
    """
    rank, of = world()
    if of == 1:
        yield ALONE
        return
    if STREAM in sources:
        raise FmtoolError("standard input can't be read by several processes: expected a file in place of '-'")
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=LONGEST))
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise FmtoolError(f"the processes can't connect at {place}: {first_line(error)}") from None
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=of, timeout=LONGEST)
    ranks = Ranks(rank, of, store)
    try:
        with _noting(ranks):
            yield ranks
    except BaseException:
        with contextlib.suppress(RuntimeError):
            store.set(FAILED, str(rank))
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # a peer has already died
            dist.destroy_process_group()


@contextmanager
def _noting(ranks: Ranks) -> Iterator[None]:
    """Note the warnings of this process, and show those of rank 0."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, FmtoolWarning):
                ranks.told.append(str(message))
            if ranks.leads:
                show(message, category, *rest, **more)

        warnings.showwarning = note
        if not ranks.leads:
            warnings.simplefilter("always", FmtoolWarning)
        yield


@contextmanager
def _peer(rank: int) -> Iterator[None]:
    """ProcessError where the process of this rank doesn't answer."""
    try:
        yield
    except RuntimeError:
        raise ProcessError(f"process {rank} has ended") from None


def _send(rows: Iterable[tuple[int, bytes]]) -> None:
    import torch
    import torch.distributed as dist

    for number, data in rows:
        dist.send(torch.tensor([number, len(data)]), 0)
        dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0)
    dist.send(torch.tensor([-1, 0]), 0)


def _received(rank: int) -> Iterator[tuple[int, bytes]]:
    import torch
    import torch.distributed as dist

    head = torch.zeros(2, dtype=torch.int64)
    while True:
        dist.recv(head, rank)
        number, size = head.tolist()
        if number < 0:
            return
        data: Tensor = torch.empty(size, dtype=torch.uint8)
        dist.recv(data, rank)
        yield number, data.numpy().tobytes()
