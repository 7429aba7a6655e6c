"""The data set that needs no download."""

from __future__ import annotations

from pathlib import Path

from fmtool.datasets.source import Source, Split

DIGITS_TEST_EVERY = 4  # every fourth image of the digits is a test image


def digits(root: Path | None) -> Source:
    """1,797 scans of handwritten digits, 8x8 in 17 grey levels, embedded in scikit-learn; `root` is not looked at."""
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(labels).long()
    test = torch.arange(len(labels)) % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    splits = {"train": Split(images[~test], labels[~test]), "test": Split(images[test], labels[test])}
    return Source(splits, tuple("0123456789"), format="builtin")
