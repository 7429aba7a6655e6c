"""For tests of compiled networks: a mark for those that need a compiler, and a stand-in that compiles nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler at hand"
)


def as_it_is(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """In place of `compiling.compiled`: the function itself, without a graph for autograd."""
    import torch

    return torch.no_grad()(function)
