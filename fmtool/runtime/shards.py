"""The part of a job that one command does (`--shard I/N`): every Nth row, so that it is a representative sample of the data.

Shards are separate files that `merge` joins. Importing this module needs no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fmtool.errors import FmtoolError


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1 to `of`, of a job: its rows at positions number - 1, number - 1 + of, ..."""

    number: int
    of: int

    def rows(self, n: int, what: str = "images") -> range:
        """Positions among all n rows. FmtoolError if there are none. what: the rows are."""
        positions = range(self.number - 1, n, self.of)
        if not positions:
            raise FmtoolError(f"--shard {self.number}/{self.of}: there are only {n} {what}")
        return positions

    def field(self, n: int) -> dict[str, int]:
        """The header's field about this part of n rows."""
        return {"number": self.number, "of": self.of, "rows": n}


def parse_shard(text: str | None) -> Shard | None:
    """ "2/8" is the second of eight; None, the whole job, stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, of = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise FmtoolError(f"--shard {text}: expected I/N with I from 1 to N, such as 2/8")
    return Shard(number, of)
