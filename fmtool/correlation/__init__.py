"""Correlation of two paired data sets, each statistic with its permutation null (paper, section 3.2).

The table below is read by the command line for its help, so nothing heavy is imported here: `correlate`, `Statistic`
and `Null` are fetched on first use. A new statistic is one file `fmtool/correlation/<name>.py` with a function
`prepare` (see `prepared.py`) and one line in this table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fmtool.correlation.engine import Statistic, correlate
    from fmtool.correlation.nulls import Null

__all__ = ["STATISTICS", "Null", "Statistic", "correlate"]

# Name of the statistic, which is also the name of its module here, and what it measures.
STATISTICS: dict[str, str] = {
    "svcca": "mean canonical correlation of the main directions (linear)",
    "cosine": "mean cosine similarity of the paired rows",
    "idcor": "intrinsic-dimension correlation, IdCor (non-linear)",
}

_HOMES = {
    "correlate": "fmtool.correlation.engine",
    "Statistic": "fmtool.correlation.engine",
    "Null": "fmtool.correlation.nulls",
}


def __getattr__(name: str) -> object:
    """Import `correlate`, `Statistic` or `Null` on first use (PEP 562); torch and numba come with them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
