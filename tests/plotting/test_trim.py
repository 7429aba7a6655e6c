"""Statistics against the threshold of entries: the numbers in the axes."""

from __future__ import annotations

import numpy as np
from figures import Load, lines, with_trims

from fmtool.plotting.figure import draw


def test_thresholds_ascend_and_what_is_missing_is_a_gap(load: Load) -> None:
    above, below = draw([with_trims(load("correlation"))], 8).axes
    assert above.get_title() == "IdCor"
    assert [text.get_text() for text in below.get_xticklabels()] == ["0", "0.001", "0.5"]
    (_, observed), (_, mean) = lines(above)
    np.testing.assert_array_equal(observed, [0.4, 0.2, np.nan])
    np.testing.assert_array_equal(mean, [-0.3, -0.3, np.nan])
    band = above.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [-0.4, -0.1])
    (_, adjusted), (_, within), _ = lines(below)
    np.testing.assert_array_equal(adjusted, [0.2, 0.1, np.nan])
    assert np.isnan(within).all()
