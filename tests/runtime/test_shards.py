"""Which rows a shard or a rank takes."""

from __future__ import annotations

import pytest

from fmtool.errors import FmtoolError
from fmtool.runtime.distributed import Ranks
from fmtool.runtime.shards import Shard, parse_shard


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b", "", "1.0/2", "1/99999999999"])
def test_no_shard(text: str) -> None:
    with pytest.raises(FmtoolError, match=r"--shard .*: expected I/N with I from 1 to N, such as 2/8"):
        parse_shard(text)


def test_parts_cover_all_rows_once() -> None:
    assert parse_shard("2/8") == Shard(2, 8)
    for of in (1, 3, 7):
        rows = [row for number in range(1, of + 1) for row in Shard(number, of).rows(7)]
        assert sorted(rows) == list(range(7))
        shared = [row for rank in range(of) for row in Ranks(rank, of).rows(range(5))]
        assert sorted(shared) == list(range(5))
