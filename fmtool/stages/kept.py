"""A side file as the place where a computation keeps what it would go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fmtool.kept import Tensors
from fmtool.side_files import Side, pack, unpack


@dataclass(frozen=True)
class InSide:
    """See `kept.Kept`. Finished parts are states with their names, what is not finished is the one without.

    Ctrl-C and its like are put off until one of its methods is called with what would else be lost.
    """

    side: Side

    def __post_init__(self) -> None:
        self.side.interrupts.puts_off = True

    def load(self) -> Tensors | None:
        return self._read("")

    def save(self, make: Callable[[], Tensors]) -> None:
        if self.side.due():
            self.side.keep(pack(make()))
            self._commit()

    def part(self, name: str) -> Tensors | None:
        assert name
        return self._read(name)

    def finish(self, name: str, part: Tensors) -> None:
        self.finish_all({name: part})

    def finish_all(self, parts: Mapping[str, Tensors]) -> None:
        for name, part in parts.items():
            self.side.keep(pack(part), name)
        if self.side.due():  # after the last: a commit in between would leave the others for the next one
            self._commit()

    def _commit(self) -> None:
        self.side.commit()
        self.side.interrupts.obey()

    def _read(self, name: str) -> Tensors | None:
        data = self.side.state(name)
        return None if data is None else unpack(data)
