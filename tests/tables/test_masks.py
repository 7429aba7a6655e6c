"""The tables of masks."""

from __future__ import annotations

import numpy as np
from half_spectrum import fourier


def test_kept_entries_count_the_full_spectrum() -> None:
    """Columns 0 and w / 2 once, the ones between twice."""
    masks = np.zeros((1, 1, 4, 3), dtype=np.float32)
    masks[0, 0, 1] = [0.5, 0.5, 0.5]
    assert fourier(4, 4).kept_entries(masks).tolist() == [4]
    assert fourier(4, 5).kept_entries(masks).tolist() == [5]
