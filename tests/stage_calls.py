"""What a command gives to its stage; the fixture `called` of cli/conftest.py records it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

Called = Callable[..., tuple[list[Any], dict[str, Any]]]


def defaults(stage: Callable[..., Any]) -> dict[str, Any]:
    """The stage's own defaults, which are those of the command line too."""
    parameters = inspect.signature(stage).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY and one.name != "execution"}
