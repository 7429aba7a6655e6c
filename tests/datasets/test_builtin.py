"""The digits that scikit-learn embeds."""

from __future__ import annotations

import numpy as np
import torch

from fmtool.datasets.data import load


def test_every_fourth_digit_is_a_test_image() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    train, test = load("digits:train"), load("digits:test")
    assert (len(train), len(test)) == (1348, 449)
    is_test = np.arange(1797) % 4 == 3
    for data, chosen, split in ((train, ~is_test, "train"), (test, is_test, "test")):
        assert data.images.shape == (len(data), 1, 8, 8) and data.images.dtype == torch.float32
        assert np.array_equal(data.images.numpy().reshape(-1, 64) * 16, pixels[chosen])
        assert np.array_equal(data.labels.numpy(), labels[chosen]) and data.labels.dtype == torch.int64
        assert torch.equal(data.index, torch.arange(len(data)))
        assert data.class_names == tuple("0123456789")
        assert data.record() == {"name": "digits", "split": split}
