"""The folder for downloads and compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads are kept: $FMTOOL_CACHE, else fmtool below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("FMTOOL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmtool"
