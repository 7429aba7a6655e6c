"""The inputs of a last layer, which is trained alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmtool.errors import ModelError
from fmtool.models import training
from fmtool.models.classifier import Classifier
from fmtool.models.training import RECIPES


class Probabilities(nn.Module):
    """A last linear layer whose output is not what the network gives."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)).softmax(1)


def test_a_head_that_does_not_give_the_logits_is_refused() -> None:
    classifier = Classifier(Probabilities())
    with pytest.raises(ModelError, match="does not give its logits"):
        training.train_head(
            classifier, torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]), RECIPES["head"], batch=4
        )
