"""The statistics, and the estimators of IdCor's dimensions. Reading these tables imports nothing heavy.

To add a statistic, write `fmtool/correlation/statistics/<name>.py` with a function `prepare` (see `statistics/base.py`) and add
one line to `STATISTICS`. The command line, the file format, tables and figures read the rest from that line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# A null mean above this would magnify noise 20 times in (observed - mean) / (1 - mean).
ADJUSTABLE_BELOW = 0.95


@dataclass(frozen=True)
class StatisticKind:
    """One statistic: its heading in tables and figures, and what it measures."""

    heading: str
    measures: str
    p_in_table1: bool = False  # Table 1 gives its p
    std_in_table1: bool = False  # Table 1 gives its `std` detail, behind the value


# The name on the command line and in files, which is also the module's name in `statistics`.
STATISTICS: dict[str, StatisticKind] = {
    "svcca": StatisticKind("SVCCA", "mean canonical correlation of the main directions (linear)"),
    "cosine": StatisticKind("cosine", "mean cosine similarity of the paired rows", std_in_table1=True),
    "idcor": StatisticKind("IdCor", "intrinsic-dimension correlation, IdCor (non-linear)", p_in_table1=True),
    "cca": StatisticKind("CCA", "mean canonical correlation of all directions (linear)"),
    "pwcca": StatisticKind(
        "PWCCA", "canonical correlations weighted by the share of A that they explain (linear, asymmetric)"
    ),
    "cka": StatisticKind("CKA", "linear centred kernel alignment"),
    "dcor": StatisticKind("dCor", "distance correlation (non-linear)"),
}
STATISTICS_BY_DEFAULT = ("svcca", "cosine", "idcor")  # the paper's (section 4.5)
PERMUTATIONS = 999  # a null
SUBSET_DRAWS = 10  # random subsets a size
DIMENSION = "twonn"  # a key of `DIMENSIONS`
Preset = Literal["paper"]
ALL = "all"  # in place of a name: every one of them


def statistic_kind(name: str) -> StatisticKind:
    """The row of `STATISTICS`; for a name that is not in the table, as in a file of a newer version, a row that says so."""
    return STATISTICS.get(name) or StatisticKind(f"{name} (unknown statistic)", "")


# Estimators of IdCor's dimensions: the class of `skdim.id` and what it does. TwoNN is our own (`numerics/two_nn.py`).
# Left out: danco, which returns the number of columns for sparse masks; fishers, which returns NaN where all points are
# separable, as they are in so many columns; and mind_ml, which stops at dimension 10.
DIMENSIONS: dict[str, tuple[str, str]] = {
    "twonn": ("TwoNN", "two nearest neighbours (fast)"),
    "mle": ("MLE", "maximum likelihood of 20 neighbours"),
    "mom": ("MOM", "method of moments"),
    "mada": ("MADA", "manifold-adaptive"),
    "tle": ("TLE", "tight local"),
    "corrint": ("CorrInt", "correlation integral"),
    "knn": ("KNN", "lengths of nearest-neighbour graphs, a whole number"),
    "lpca": ("lPCA", "number of large principal axes, a whole number"),
    "ess": ("ESS", "skewness of simplices (slow)"),
}
