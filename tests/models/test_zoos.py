"""Names of other packages' networks go to the module of their prefix, with all that was given."""

from __future__ import annotations

from typing import Any

import pytest

from fmtool.models import zoos
from fmtool.models.registry import in_collection
from fmtool.models.zoos import ZOOS


@pytest.mark.parametrize("prefix", ZOOS)
def test_a_name_goes_to_its_packages_module(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and images stand for themselves."""
    asked: list[tuple[Any, ...]] = []
    for name, module in ZOOS.items():
        monkeypatch.setattr(module, "configuration", lambda *given, name=name: (name, *given))
        monkeypatch.setattr(module, "build", lambda *given, name=name, **more: asked.append((name, *given, more)))
    architecture = f"{prefix}a:b"
    assert in_collection(architecture)
    assert zoos.configuration(architecture, {"depth": 3}) == (prefix, architecture, {"depth": 3})
    zoos.build(architecture, 3, 10, {"depth": 3})
    zoos.build(architecture, 1, 2, {}, pretrained=True)
    assert asked == [
        (prefix, architecture, 3, 10, {"depth": 3}, {"pretrained": False}),
        (prefix, architecture, 1, 2, {}, {"pretrained": True}),
    ]


def test_a_name_without_a_known_prefix_is_a_bug() -> None:
    with pytest.raises(KeyError, match="other:"):
        zoos.configuration("other:net", {})
