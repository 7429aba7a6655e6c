"""What a long computation resumes from after it was killed. `resume_file` keeps it on disk, `NO_JOURNAL` not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Journal:
    """Finished parts by name, finished rows by number, and the state of what is not finished. This class records nothing.

    Values come back bit by bit, on the CPU. One thread at a time may call it. Ctrl-C, SIGTERM and SIGHUP wait for the next call
    of `save`, `finish` or `finish_all`, so that the work is stopped where its state is whole, unless `stop_at_once` was called.
    """

    def load(self) -> Tensors | None:
        """The state saved last, if the computation was killed after that."""
        return None

    def save(self, state: Callable[[], Tensors]) -> None:
        """Record the state that `state` gives, if it is time to: call it often, wherever the state is whole."""

    def part(self, name: str) -> Tensors | None:
        """A finished part."""
        return None

    def finish(self, name: str, part: Tensors, *, again: bool = False) -> None:
        """Record a finished part. again: it takes little time beside the rest, and may be lost and computed again."""
        self.finish_all({name: part}, again=again)

    def finish_all(self, parts: Mapping[str, Tensors], *, again: bool = False) -> None:
        """Record several finished parts, which reach the disk together."""

    def rows(self) -> list[int]:
        """The numbers of the finished rows, ascending."""
        return []

    def row(self, number: int) -> bytes:
        """A finished row, as `pack` gives it."""
        raise KeyError(number)

    def finish_row(self, number: int, values: Tensors) -> None:
        """Record a finished row, and forget its state."""

    def row_state(self, number: int) -> Tensors | None:
        """The state of an unfinished row that was saved last."""
        return None

    def save_rows(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Record the states of unfinished rows, by number, now."""

    def due(self) -> bool:
        """Whether it is time to record a state."""
        return False

    def stop_at_once(self) -> None:
        """From now on signals are obeyed at once: the work can be stopped anywhere, and saves its state on the way out."""


NO_JOURNAL = Journal()


def each(
    journal: Journal, name: str, numbers: Sequence[int], compute: Callable[[Sequence[int]], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """A tensor for each number, in order; `compute` gives those that are not among the finished parts of this name.

    They are the batches of a pass over the images, which is short beside the work and may be computed again.
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


def as_tensor(value: Any) -> Tensor:
    """What JSON can hold, and NaN, as the bytes of its text (length,) uint8: floats come back bit by bit."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def from_tensor(text: Tensor) -> Any:
    """What `as_tensor` was given."""
    return json.loads(bytes(text.tolist()))
