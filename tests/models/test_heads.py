"""The inputs of a last layer, which is trained alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmtool.errors import ModelError
from fmtool.models import training
from fmtool.models.classifier import Classifier
from fmtool.models.heads import features
from fmtool.models.training import RECIPES
from fmtool.runtime.journal import NO_JOURNAL


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


class Odd(nn.Module):
    """Calls its last layer twice, by name, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Flatten(), nn.Linear(64, 3).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images).double()
        self.probabilities = self.fc(input=-features).softmax(1)
        logits: torch.Tensor = self.fc(input=features)
        return logits


def test_the_features_are_those_of_the_last_call() -> None:
    classifier = Classifier(Odd())
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    found, _ = features(classifier, classifier.network.fc, images, 4, torch.device("cpu"), None, NO_JOURNAL)
    assert torch.equal(found, images.flatten(1).double())
    before = classifier.network.fc.weight.clone()
    training.train_head(classifier, images, labels, RECIPES["head"], batch=4)
    assert not torch.equal(before, classifier.network.fc.weight)
