"""Names of other packages' networks reach the package that they begin with."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from fmtool.models import robustbench_networks, timm_networks, zoos
from fmtool.models.registry import in_collection, is_factory


@pytest.mark.parametrize(("name", "module"), [("timm:a", timm_networks), ("robustbench:a", robustbench_networks)])
def test_a_name_reaches_its_package(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Identity()
    calls: list[Any] = []
    monkeypatch.setattr(module, "build", lambda *given, **named: calls.append((given, named)) or network)
    assert zoos.build(name, 3, 10, {"depth": 2}, pretrained=True) is network
    assert calls == [((name, 3, 10, {"depth": 2}), {"pretrained": True})]
    assert in_collection(name) and not is_factory(name)
    assert is_factory("package.module:factory") and not in_collection("package.module:factory")
