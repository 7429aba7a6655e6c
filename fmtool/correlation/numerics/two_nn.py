"""Intrinsic dimension by TwoNN, from each point's two nearest neighbours (Facco et al. 2017; paper, section 3.2).

In a d-dimensional neighbourhood of even density, mu = r2 / r1 has the distribution F(mu) = 1 - mu^-d, so
-log(1 - F) is a line through the origin over log mu, and its slope is d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmtool.errors import StatisticError

FIT_SHARE = 0.9  # of the points, smallest mu first; the tail is noisy (Facco et al. 2017, and the authors' code)
# Below this the 90 % rule leaves out only the last point, whose F = 1 can't be used anyway, and the estimate's
# relative scatter, about 1 / sqrt(0.9 N), exceeds a third.
MIN_POINTS = 10


@dataclass(frozen=True)
class Dimension:
    """An estimate and the points that it could not use."""

    value: float  # intrinsic dimension, > 0
    duplicates: int  # points at distance 0 from their nearest neighbour: mu is infinite
    ties: int  # points with r1 = r2 > 0: in discrete data, or where both neighbours are duplicates of each other


def two_nn(nearest: npt.NDArray[np.float32], what: str) -> Dimension:
    """TwoNN from squared distances.

    nearest: (n, 2) float32, squared distances to the first and the second neighbour, first <= second. They stay squared
    and float32 here, so that "equal" means the same for the two data sets and for their concatenation.
    what: name of the data, for the message.

    The line is the least-squares fit over the first floor(0.9 N) points, N being the number of points left. Without
    duplicates and ties this is `skdim.id.TwoNN(discard_fraction=0.1, dist=True)` of version 0.5; skdim keeps points
    with r1 = r2, while this leaves them out, as the authors do.

    Raises StatisticError when fewer than 10 points are left.
    """
    first, second = nearest[:, 0], nearest[:, 1]
    duplicate = first == 0
    tie = ~duplicate & (first == second)
    duplicates, ties = int(duplicate.sum()), int(tie.sum())
    usable = nearest[~(duplicate | tie)].astype(np.float64)
    if len(usable) < MIN_POINTS:
        raise StatisticError(
            f"TwoNN needs at least {MIN_POINTS} points whose two nearest neighbours are apart from them and from each "
            f"other; {what} has {len(usable)} of {len(nearest)} ({duplicates} duplicates, {ties} ties)"
        )
    log_mu = np.sort(0.5 * np.log(usable[:, 1] / usable[:, 0]))
    fitted = int(FIT_SHARE * len(log_mu))
    height = -np.log1p(-np.arange(1, fitted + 1) / len(log_mu))
    log_mu = log_mu[:fitted]
    return Dimension(float(log_mu @ height / (log_mu @ log_mu)), duplicates, ties)
