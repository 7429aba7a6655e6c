"""The tables of masks."""

from __future__ import annotations

import numpy as np
from half_spectrum import fourier

from fmtool.tables.masks import class_masks_table, masks_table


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


def test_one_loss_that_is_not_finite_does_not_hide_the_others() -> None:
    header = {"for": "essential", "attack": None, "lambda": 0.5, "image_size": [4, 4], "basis": "fourier"}
    arrays = {name: np.ones(3, dtype=bool) for name in ("preserved", "preserved_stored", "converged")}
    arrays |= {"masks": np.ones((3, 1, 4, 3)), "steps": np.arange(3), "loss": np.array([0.25, np.nan, 0.75])}
    table = masks_table(header, arrays)
    assert dict(zip(table.columns, table.rows[0], strict=True))["loss"] == 0.5
    assert "loss: over the 2 of 3 masks whose loss is finite." in table.notes
    none = masks_table(header, {**arrays, "loss": np.full(3, np.nan)})
    assert dict(zip(none.columns, none.rows[0], strict=True))["loss"] is None
