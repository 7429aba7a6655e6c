"""Describe files of any size: small ones without torch, large ones without reading them into memory."""

from __future__ import annotations

import contextlib
import os

from fmtool.artifacts import files
from fmtool.artifacts.format import Description

LARGE = 2**30  # bytes of a file that is not read into memory


def describe(source: str, *kinds: str) -> Description:
    """As `files.describe`; the tensors of a large file stay in it, for which importing torch is worthwhile."""
    if os.path.isfile(source) and os.path.getsize(source) > LARGE:
        from fmtool.artifacts import streaming

        with contextlib.suppress(KeyError):  # of a number type that is read only whole
            return streaming.describe(source, *kinds)
    return files.describe(source, *kinds)
