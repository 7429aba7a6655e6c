"""The tables of masks."""

from __future__ import annotations

import numpy as np

from fmtool.tables.masks import kept_entries


def test_kept_entries_count_the_full_spectrum() -> None:
    """Columns 0 and w / 2 once, the ones between twice."""
    masks = np.zeros((1, 1, 4, 3), dtype=np.float32)
    masks[0, 0, 1] = [0.5, 0.5, 0.5]
    assert kept_entries(masks, 4).tolist() == [4]
    assert kept_entries(masks, 5).tolist() == [5]
