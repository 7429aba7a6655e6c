"""Where Numba caches compiled code: without a cache, each `correlate` compiles for some 4 seconds."""

from __future__ import annotations

import os
from typing import Any

import numba

from fmtool.runtime.cache import cache_folder

SETTINGS: Any = numba.config  # created at run time, unknown to type checkers


def _prepare() -> bool:
    """Point Numba at our cache folder unless the user has named one; False if the folder can't be written."""
    if SETTINGS.CACHE_DIR:
        return True
    folder = cache_folder() / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    if not os.access(folder, os.W_OK):
        return False
    SETTINGS.CACHE_DIR = str(folder)
    return True


CACHE = _prepare()
