"""Where Numba keeps what it has compiled: without that, each run of `correlate` compiles for some 4 seconds."""

from __future__ import annotations

import os

import numba

from fmtool.datasets import cache_folder


def _prepare() -> bool:
    """Point Numba at our cache folder unless the user has named one; False where nothing can be written or kept."""
    if numba.config.CACHE_DIR:
        return True
    folder = cache_folder() / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    if not os.access(folder, os.W_OK):
        return False
    numba.config.CACHE_DIR = str(folder)
    return True


CACHE = _prepare()
