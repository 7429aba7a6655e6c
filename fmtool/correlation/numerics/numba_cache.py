"""Where Numba caches compiled code: without a cache, each `correlate` compiles for some 4 seconds."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numba
from numba.core import caching

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


def _keep_if_possible() -> None:
    """Let Numba go on with code that it can't keep, as on a full disk: by default its error ends the command."""
    cache: Any = caching.Cache
    save = cache.save_overload

    def try_to_save(self: Any, signature: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            save(self, signature, data)

    cache.save_overload = try_to_save


CACHE = _prepare()
_keep_if_possible()
