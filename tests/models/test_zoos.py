"""Names of other packages' networks go to the module of their prefix, with all that was given."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fmtool.errors import ModelError
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


@pytest.mark.parametrize("prefix", ZOOS)
def test_a_package_changes_nothing_for_the_process(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configuration", "build"):
        monkeypatch.setattr(ZOOS[prefix], name, lambda *_, **__: torch.set_default_dtype(torch.float64))
    zoos.configuration(f"{prefix}a", {})
    assert torch.get_default_dtype() == torch.float32
    zoos.build(f"{prefix}a", 3, 10, {})
    assert torch.get_default_dtype() == torch.float32


def test_networks_that_timm_has_without_a_classifier_and_unknown_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for timm."""

    def config(name: str, allow_unregistered: bool) -> Any:
        if name.endswith(".wrong"):
            raise RuntimeError("Invalid pretrained tag (wrong) for vit.")
        return SimpleNamespace(input_size=(3, 8, 8), mean=[0.5], std=[0.5], num_classes=0)

    def create(name: str, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        return nn.Linear(in_chans, num_classes)

    timm = SimpleNamespace(is_model=lambda name: True, get_pretrained_cfg=config, create_model=create)
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert zoos.configuration("timm:vit.dino", {}).outputs == 1
    assert isinstance(zoos.build("timm:vit.dino", 3, 7, {}), nn.Linear)
    with pytest.raises(ModelError, match=r"^timm:vit\.dino: --pretrained: has no classifier"):
        zoos.build("timm:vit.dino", 3, 1, {}, pretrained=True)
    with pytest.raises(ModelError, match=r"^timm:vit\.wrong: Invalid pretrained tag \(wrong\) for vit"):
        zoos.configuration("timm:vit.wrong", {})


def test_a_name_without_a_known_prefix_is_a_bug() -> None:
    with pytest.raises(KeyError, match="other:"):
        zoos.configuration("other:net", {})
