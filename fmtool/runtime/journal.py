"""What a killed computation resumes from. `resume_file` keeps it on disk, `NO_JOURNAL` keeps nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Journal:
    """Finished parts by name, finished rows by number, and the state of unfinished work. This class records nothing.

    Values are restored bit for bit, on the CPU. Only one thread at a time may call it. Ctrl-C, SIGTERM and SIGHUP wait for the
    next call of `save`, `finish` or `finish_all`, so that work stops in a consistent state, unless `stop_at_once` was called.
    """

    def load(self) -> Tensors | None:
        """The state saved last, if the computation was killed afterwards."""
        return None

    def save(self, state: Callable[[], Tensors]) -> None:
        """Record the state that `state` returns, if it is time to. Call this often, wherever the state is consistent."""

    def part(self, name: str) -> Tensors | None:
        """A finished part."""
        return None

    def finish(self, name: str, part: Tensors, *, again: bool = False) -> None:
        """Record a finished part. again: it is cheap compared with the rest, and may be lost and computed again."""
        self.finish_all({name: part}, again=again)

    def finish_all(self, parts: Mapping[str, Tensors], *, again: bool = False) -> None:
        """Record several finished parts, written to disk together."""

    def rows(self) -> list[int]:
        """The numbers of the finished rows, ascending."""
        return []

    def row(self, number: int) -> bytes:
        """A finished row, as `pack` gives it."""
        raise KeyError(number)

    def finish_row(self, number: int, values: Tensors) -> None:
        """Record a finished row and delete its state."""

    def row_state(self, number: int) -> Tensors | None:
        """The state of an unfinished row that was saved last."""
        return None

    def save_rows(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Record the states of unfinished rows, by number, now."""

    def due(self) -> bool:
        """Whether it is time to record a state."""
        return False

    def stop_at_once(self) -> None:
        """From now on obey signals immediately: the work can be stopped anywhere, and saves its state as it ends."""


NO_JOURNAL = Journal()


def each(
    journal: Journal, name: str, numbers: Sequence[int], compute: Callable[[Sequence[int]], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """A tensor for each number, in order; `compute` yields those that are not among the finished parts of this name.

    These are the batches of one pass over the images, which is short compared with the work and may be computed again.
    """
    parts = {number: journal.part(f"{name} {number}") for number in numbers}
    computed = iter(compute([number for number, part in parts.items() if part is None]))
    for number, part in parts.items():
        if part is None:
            part = {"values": next(computed)}
            journal.finish(f"{name} {number}", part, again=True)
        yield part["values"]


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack(content: bytes) -> Tensors:
    """The tensors that `pack` was given."""
    from safetensors.torch import load

    return load(content)


def size_of(beginning: bytes) -> int:
    """The size in bytes of what `pack` gave, from its beginning: safetensors' header with its length before it."""
    data = 8 + int.from_bytes(beginning[:8], "little")
    ends = [entry["data_offsets"][1] for name, entry in json.loads(beginning[8:data]).items() if name != "__metadata__"]
    return data + max(ends, default=0)


def as_tensor(value: Any) -> Tensor:
    """A JSON value (NaN allowed) as the bytes of its text, (length,) uint8; floats are restored bit for bit."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def from_tensor(text: Tensor) -> Any:
    """What `as_tensor` was given."""
    return json.loads(bytes(text.tolist()))
