"""What a long computation keeps of itself, so that it can go on from there when it was killed; where to is not its affair."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Kept(Protocol):
    """Finished parts by name, and one state of what is not finished. Saved values come back bit by bit, on the CPU."""

    def load(self) -> Tensors | None:
        """The last state that was saved before the computation was killed."""

    def save(self, make: Callable[[], Tensors]) -> None:
        """Keep the state that `make` gives, if it is time to: to be called often, wherever there is a whole state."""

    def part(self, name: str) -> Tensors | None:
        """A part that was finished before."""

    def finish(self, name: str, part: Tensors) -> None:
        """A part is finished."""

    def finish_all(self, parts: Mapping[str, Tensors]) -> None:
        """Several parts are finished at once, and go to disk together."""


class Nothing:
    """Keeps nothing."""

    def load(self) -> Tensors | None:
        return None

    def save(self, make: Callable[[], Tensors]) -> None:
        pass

    def part(self, name: str) -> Tensors | None:
        return None

    def finish(self, name: str, part: Tensors) -> None:
        pass

    def finish_all(self, parts: Mapping[str, Tensors]) -> None:
        pass


NOTHING: Kept = Nothing()


def each(
    kept: Kept, name: str, numbers: Sequence[int], make: Callable[[Sequence[int]], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """A tensor for each number, in order, each of them a part under this name; `make` gives those that are not there yet."""
    parts = {number: kept.part(f"{name} {number}") for number in numbers}
    made = iter(make([number for number, part in parts.items() if part is None]))
    for number, part in parts.items():
        if part is None:
            part = {"values": next(made)}
            kept.finish(f"{name} {number}", part)
        yield part["values"]


def as_tensor(value: Any) -> Tensor:
    """What JSON can hold, and NaN, as the bytes of its text (length,) uint8: floats come back bit by bit."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def from_tensor(text: Tensor) -> Any:
    """What `as_tensor` was given."""
    return json.loads(bytes(text.tolist()))
