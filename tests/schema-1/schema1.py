"""The network that the files of schema 1 were made with."""

import torch


def net():
    """Flattened 8x8 pixels to ten logits."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
