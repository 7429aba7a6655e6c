"""A side file as the place where a computation keeps what it would go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fmtool.kept import Tensors
from fmtool.side_files import Side, pack, unpack


@dataclass(frozen=True)
class InSide:
    """See `kept.Kept`. Finished parts are states with their names, what is not finished is the one without."""

    side: Side

    def load(self) -> Tensors | None:
        return self._read("")

    def save(self, make: Callable[[], Tensors]) -> None:
        if self.side.due():
            self.side.keep(pack(make()))
            self.side.commit()

    def part(self, name: str) -> Tensors | None:
        assert name
        return self._read(name)

    def finish(self, name: str, part: Tensors) -> None:
        self.side.keep(pack(part), name)
        if self.side.due():
            self.side.commit()

    def _read(self, name: str) -> Tensors | None:
        data = self.side.state(name)
        return None if data is None else unpack(data)
