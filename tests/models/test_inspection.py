"""Outputs that are logits or are not, and flags of networks that mislead attacks."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fmtool.errors import FmtoolWarning, ModelError
from fmtool.models.classifier import Classifier
from fmtool.models.inspection import check_outputs, depends_on_mates, warn_of_flags

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + torch.randn_like(x)).flatten(1)


class Probabilities(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).softmax(1)


class Steps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 8).round().flatten(1)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Noisy, "forward is random"),
        (Probabilities, "outputs are probabilities"),
        (Steps, "6 of 6 random images have a gradient of 0"),
    ],
)
def test_flags_are_told_in_a_line_each(network: type[nn.Module], told: str) -> None:
    with pytest.warns(FmtoolWarning, match=told) as caught:
        warn_of_flags(Classifier(network()).eval(), SHAPE, CPU)
    assert len(caught) == 1
    assert not depends_on_mates(Classifier(network()).eval(), SHAPE, CPU)


def test_a_tidy_network_is_not_warned_of() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_flags(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).eval(), SHAPE, CPU)


class Mates(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=0, keepdim=True)).flatten(1) * 1.0


def test_networks_that_look_at_the_whole_batch_are_told() -> None:
    assert depends_on_mates(Classifier(Mates()).eval(), SHAPE, CPU)
    with pytest.warns(FmtoolWarning, match="depend on the other images in its batch"):
        warn_of_flags(Classifier(Mates()).eval(), SHAPE, CPU)


LOGITS = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def test_logits_are_found_alone_in_a_dict_or_first_in_a_tuple() -> None:
    for output in (LOGITS, {"logits": LOGITS}, SimpleNamespace(logits=LOGITS)):
        assert check_outputs(output) is LOGITS
    with pytest.warns(FmtoolWarning, match="gives a tuple of Tensor, Tensor: its first tensor is used as the logits"):
        assert check_outputs((LOGITS, LOGITS)) is LOGITS


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"loss": LOGITS}, "gives a dict of loss, expected a tensor of logits, or `logits` within"),
        ({}, "gives a dict of nothing,"),
        ("text", "gives an object of type str,"),
        (LOGITS[0], r"gives float32 \[3\], expected logits \(images, classes\)"),
        (LOGITS.long(), r"gives int64 \[2, 3\], expected logits"),
        (LOGITS[:0], r"gives float32 \[0, 3\], expected logits"),
        (LOGITS / 0, r"gives logits that are not finite \(6 of 6\)"),
    ],
)
def test_what_is_no_logits_is_named(output: object, message: str) -> None:
    with pytest.raises(ModelError, match=f"^the network {message}"):
        check_outputs(output)
