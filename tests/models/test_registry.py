"""The table of architectures."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from fmtool.models.registry import ARCHITECTURES, PRECISIONS, Precision, is_factory


def test_table_of_architectures_holds_what_it_says() -> None:
    network = ARCHITECTURES["resnet20"].build(3, 10)
    assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" in ARCHITECTURES["resnet20"].summary


@pytest.mark.parametrize(
    ("name", "expected"),
    [("package.module:factory", True), ("timm:resnet18", False), ("resnet20", False), ("robustbench.x:Standard", True)],
)
def test_names_of_third_party_code(name: str, expected: bool) -> None:
    assert is_factory(name) == expected


def test_precisions_are_those_of_the_type() -> None:
    assert list(PRECISIONS) == list(get_args(Precision))


def test_small_networks_take_any_channels_and_outputs() -> None:
    for architecture in ARCHITECTURES.values():
        assert architecture.build(2, 5).eval()(torch.zeros(1, 2, 8, 8)).shape == (1, 5)


def test_resnet8_has_one_block_a_stage_and_half_the_width() -> None:
    """Of 16, 32 and 64 channels."""
    network = ARCHITECTURES["resnet8"].build(1, 2)
    widths = [tuple(parameter.shape[:2]) for name, parameter in network.named_parameters() if parameter.ndim == 4]
    assert widths == [(8, 1), (8, 8), (8, 8), (16, 8), (16, 16), (32, 16), (32, 32)]
