"""The tables of masks."""

from __future__ import annotations

import numpy as np
from half_spectrum import fourier

from fmtool.tables.masks import class_masks_table


def test_kept_entries_count_the_full_spectrum() -> None:
    """Columns 0 and w / 2 once, the ones between twice."""
    masks = np.zeros((1, 1, 4, 3), dtype=np.float32)
    masks[0, 0, 1] = [0.5, 0.5, 0.5]
    assert fourier(4, 4).kept_entries(masks).tolist() == [4]
    assert fourier(4, 5).kept_entries(masks).tolist() == [5]


def test_the_mean_entry_is_the_full_spectrums() -> None:
    """Of 4 columns of the full spectrum two are equal and stored once."""
    masks = np.zeros((1, 1, 4, 3), dtype=np.float32)
    masks[..., 1] = 1
    header = {"class_names": ["a"], "robust": False, "attack": None, "lambda": 1.0, "images": [5], "image_size": [4, 4]}
    arrays = {"masks": masks, "classes": np.array([0]), "steps": np.array([1]), "converged": np.array([True])}
    table = class_masks_table(header, {**arrays, "loss": np.zeros(1)})
    assert dict(zip(table.columns, table.rows[0], strict=True))["mean entry"] == 0.5
