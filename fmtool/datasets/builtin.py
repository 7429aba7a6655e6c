"""Data sets known by name, and where they come from."""

from __future__ import annotations

import sys
from pathlib import Path

from fmtool.datasets.from_path import Raw, from_path
from fmtool.errors import DataError
from fmtool.runtime.cache import cache_folder

DIGITS_TEST_EVERY = 4  # every fourth image of the digits is a test image


def digits() -> Raw:
    """1,797 scans of handwritten digits, 8x8 in 17 grey levels, embedded in scikit-learn."""
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(labels).long()
    test = torch.arange(len(labels)) % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    splits = {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}
    return Raw(splits, tuple("0123456789"))


def cifar10() -> Raw:
    import torch
    from torchvision.datasets import CIFAR10

    root = cache_folder() / "cifar10"
    _announce(root / "cifar-10-batches-py", CIFAR10.url, "170 MB")
    try:
        parts = {name: CIFAR10(str(root), train=name == "train", download=True) for name in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise DataError(f"cifar10 can't be downloaded: {error}") from None
    splits = {
        name: (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), part.targets)
        for name, part in parts.items()
    }
    return Raw(splits, tuple(parts["test"].classes))


def imagenette() -> Raw:
    from torchvision.datasets import Imagenette

    root = cache_folder() / "imagenette"
    _announce(root / "imagenette2", "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz", "1.5 GB")
    try:
        # torchvision raises when asked to download what is there already
        Imagenette(str(root), split="train", download=not (root / "imagenette2").is_dir())
    except (OSError, RuntimeError) as error:
        raise DataError(f"imagenette can't be downloaded: {error}") from None
    return from_path(str(root / "imagenette2"))


def _announce(target: Path, address: str, size: str) -> None:
    if not target.exists():
        print(f"downloading {address} ({size}) to {target.parent}", file=sys.stderr)
