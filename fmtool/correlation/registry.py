"""The statistics, and how IdCor's dimensions are estimated. Nothing heavy is imported to read these tables.

A new statistic is one file `fmtool/correlation/statistics/<name>.py` with a function `prepare` (see `base`) and one line here.
"""

from __future__ import annotations

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
