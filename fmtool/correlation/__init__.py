"""Correlation of two paired data sets, each statistic with its permutation null (paper, section 3.2).

The table below is read by the command line for its help, so nothing heavy is imported here: `correlate`, `Statistic`
and `Null` are fetched on first use. A new statistic is one file `fmtool/correlation/<name>.py` with a function
`prepare` (see `prepared.py`) and one line in this table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fmtool.correlation.engine import correlate
    from fmtool.correlation.nulls import Null
    from fmtool.correlation.statistic import Statistic

__all__ = ["ALL", "DEFAULT", "DIMENSIONS", "STATISTICS", "Null", "Statistic", "correlate"]

# With the null's mean above this, (observed - mean) / (1 - mean) magnifies noise 20 times.
ADJUSTABLE_BELOW = 0.95

# Name of the statistic, which is also the name of its module here, and what it measures.
STATISTICS: dict[str, str] = {
    "svcca": "mean canonical correlation of the main directions (linear)",
    "cosine": "mean cosine similarity of the paired rows",
    "idcor": "intrinsic-dimension correlation, IdCor (non-linear)",
    "cca": "mean canonical correlation of all directions (linear)",
    "pwcca": "canonical correlations weighted by what they explain of A (linear, asymmetric)",
    "cka": "linear centred kernel alignment",
    "dcor": "distance correlation (non-linear)",
}
DEFAULT = ("svcca", "cosine", "idcor")  # the paper's (section 4.5)
ALL = "all"  # in place of a name: every one of them

# How IdCor's dimensions are estimated: the class of `skdim.id` and what it does. TwoNN is our own, see `dimension.py`.
# Left out: danco, whose answer for sparse masks is the number of columns; fishers, which gives none (NaN) where all points
# are separable, as they are in so many columns; and mind_ml, which looks no further than dimension 10.
DIMENSIONS: dict[str, tuple[str, str]] = {
    "twonn": ("TwoNN", "two nearest neighbours (fast)"),
    "mle": ("MLE", "maximum likelihood of 20 neighbours"),
    "mom": ("MOM", "method of moments"),
    "mada": ("MADA", "manifold-adaptive"),
    "tle": ("TLE", "tight local"),
    "corrint": ("CorrInt", "correlation integral"),
    "knn": ("KNN", "graph lengths, a whole number"),
    "lpca": ("lPCA", "principal axes of some size, a whole number"),
    "ess": ("ESS", "skewness of simplices (slow)"),
}

_HOMES = {
    "correlate": "fmtool.correlation.engine",
    "Statistic": "fmtool.correlation.statistic",
    "Null": "fmtool.correlation.nulls",
}


def __getattr__(name: str) -> object:
    """Import `correlate`, `Statistic` or `Null` on first use (PEP 562); torch and numba come with them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
