"""The classifier that every stage runs: preprocessing inside, frozen, apart from what it was made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fmtool
from fmtool.errors import ModelError
from fmtool.models.classifier import Classifier, batch_size, pick_device, predict, prepare
from fmtool.models.inspection import depends_on_mates
from fmtool.models.registry import ARCHITECTURES

CPU = torch.device("cpu")


def _resnet8(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES["resnet8"].build(1, outputs)


def test_normalisation_and_kept_classes_are_inside_the_model() -> None:
    network = _resnet8().eval()
    images = torch.rand(3, 1, 8, 8)
    classifier = Classifier(network, [0.25], [0.5], [7, 2]).eval()
    expected = network((images - 0.25) / 0.5)[:, [7, 2]]
    assert torch.allclose(classifier(images), expected, rtol=1e-5, atol=1e-6)
    assert classifier.network.state_dict().keys() == network.state_dict().keys()


def test_prepared_classifier_is_frozen_and_apart() -> None:
    classifier = Classifier(_resnet8())
    ready = prepare(classifier, CPU, (1, 8, 8))
    assert not ready.training and not any(parameter.requires_grad for parameter in ready.parameters())
    assert classifier.training and all(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 33, 31), (3, 224, 224), (3, 2000, 2000)])
def test_batch_size_hangs_on_shape_and_kind_of_device_alone(shape: tuple[int, int, int]) -> None:
    size = batch_size(shape, CPU)
    assert size == batch_size(shape, torch.device("cpu", 0)) and size & (size - 1) == 0 and 8 <= size <= 256
    assert size <= batch_size(shape, torch.device("cuda")) == batch_size(shape, torch.device("cuda", 3)) <= 2048
    if shape == (3, 32, 32):
        assert size == 32


def test_prediction_of_an_image_hangs_on_that_image_alone() -> None:
    classifier = prepare(Classifier(_resnet8()), CPU, (1, 8, 8))
    images = fmtool.load_data("digits", limit=21).pixels()
    together = predict(classifier, images, 8, CPU)
    assert together.dtype == torch.int64 and len(together) == 21 and len(together.unique()) > 1
    assert torch.equal(together, torch.cat([predict(classifier, images[k : k + 1], 8, CPU) for k in range(21)]))
    assert len(predict(classifier, images[:0], 8, CPU)) == 0


def test_strict_float32_on_every_device() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    assert pick_device("cpu") == CPU
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta:x", ""])
def test_unknown_device_is_told(name: str) -> None:
    with pytest.raises(ModelError, match=f"--device {name}: expected auto, cpu, cuda or cuda:N"):
        pick_device(name)


@pytest.mark.parametrize("name", ["meta", "mps", "xpu:0"])
def test_a_device_of_another_type_is_told_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=rf"cuda:N \({name.partition(':')[0]} isn't supported\)$"):
        pick_device(name)


class Squeezing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x.flatten(1))
        return logits.squeeze()


def test_a_network_that_ends_in_squeeze_takes_one_image_too() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Squeezing()).eval()
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images[:1]), classifier(images)[:1])
    assert not depends_on_mates(classifier, (1, 8, 8), torch.device("cpu"))
    prepare(classifier, torch.device("cpu"), (1, 8, 8))
