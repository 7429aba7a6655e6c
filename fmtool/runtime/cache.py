"""The folder for downloads and compiled code, and the compiler."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads are kept: $FMTOOL_CACHE, else fmtool below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("FMTOOL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmtool"


def compiler_command() -> list[str]:
    """What torch starts to compile C++, word by word: $CXX, else the compiler of the system; empty if $CXX is blank."""
    return shlex.split(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))
