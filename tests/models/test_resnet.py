"""The small residual networks: their shapes, names and blocks, the latter against functions written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fmtool.models.resnet import Block, ResNet, Shortcut


def test_a_shortcut_takes_every_second_pixel_between_new_channels_of_zeros() -> None:
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    found = Shortcut(added=3, stride=2)(x)
    assert found.shape == (1, 5, 2, 2)
    assert torch.equal(found[:, 1:3], x[:, :, [0, 2]][..., [0, 2]])
    assert float(found[:, [0, 3, 4]].abs().max()) == 0  # one before, two after


def by_hand(block: Block, x: Tensor, shortcut: Tensor, stride: int) -> Tensor:
    """In eval mode, with the batch norms of fresh networks: x / sqrt(1 + eps)."""
    scale = (1 + 1e-5) ** -0.5
    out = F.relu(F.conv2d(x, block.conv1.weight, stride=stride, padding=1) * scale)
    return F.relu(F.conv2d(out, block.conv2.weight, padding=1) * scale + shortcut)


def test_blocks_with_and_without_a_change_of_shape() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 4, 6, 6)
    same, wider = Block(4, 4, 1).eval(), Block(4, 8, 2).eval()
    torch.testing.assert_close(same(x), by_hand(same, x, x, 1))
    shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    torch.testing.assert_close(wider(x), by_hand(wider, x, shortcut, 2))


def test_three_stages_and_the_mean_over_the_image() -> None:
    torch.manual_seed(0)
    network = ResNet(3, 10, blocks=2, width=4).eval()
    images = torch.rand(2, 3, 16, 16)
    features = network.layer3(network.layer2(network.layer1(F.relu(network.bn1(network.conv1(images))))))
    assert features.shape == (2, 16, 4, 4)
    expected = features.mean(dim=(2, 3)) @ network.linear.weight.T + network.linear.bias
    torch.testing.assert_close(network(images), expected)
    assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3)] == [2, 2, 2]


def test_names_are_those_of_the_published_checkpoints() -> None:
    names = set(ResNet(3, 10, blocks=3, width=16).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} < names
    assert not any("shortcut" in name for name in names)  # option A has no parameters
