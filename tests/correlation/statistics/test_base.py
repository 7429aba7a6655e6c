"""What every statistic uses: the least number of rows, and counts without zeros."""

from __future__ import annotations

import pytest

from fmtool.correlation.statistics.base import non_zero, require_rows
from fmtool.errors import StatisticError


def test_too_few_rows_are_an_error() -> None:
    require_rows("svcca", 3, 3)
    with pytest.raises(StatisticError, match=r"^svcca needs at least 3 rows, got 2$"):
        require_rows("svcca", 2, 3)


def test_zero_counts_are_left_out_in_order() -> None:
    assert list(non_zero({"ties": 2, "zero": 0, "duplicates": 1}).items()) == [("ties", 2), ("duplicates", 1)]
