"""The two-pass classifier (paper, section 4.8): predict, filter by the predicted class's mask, predict again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmtool.masks.spectrum import filter_images


class TwoPass(nn.Module):
    """Images (n, c, h, w) in [0, 1] to the logits (n, k) of the second pass.

    masks (m, c, h, w // 2 + 1) in [0, 1], zero frequency in the corner; classes (m) int64, which class each mask is of. An
    image whose predicted class has no mask passes unfiltered.
    """

    def __init__(self, classifier: nn.Module, masks: Tensor, classes: Tensor, class_count: int) -> None:
        super().__init__()
        self.classifier = classifier
        every = torch.ones(class_count, *masks.shape[1:], dtype=masks.dtype)
        every[classes.cpu()] = masks.cpu()
        self.classes: list[int] = sorted(classes.tolist())  # those that have a mask
        self.masks: Tensor
        self.register_buffer("masks", every)

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k). The gradient is that of the second pass through the chosen mask: a choice has none."""
        with torch.no_grad():
            first = self.classifier(images).argmax(1)
        logits: Tensor = self.classifier(filter_images(images, self.masks[first]))
        return logits


class OneMask(nn.Module):
    """Images (n, c, h, w) in [0, 1] to the logits (n, k) of the classifier on all of them filtered by one mask.

    mask (c, h, w // 2 + 1) in [0, 1], zero frequency in the corner.
    """

    def __init__(self, classifier: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k)."""
        logits: Tensor = self.classifier(filter_images(images, self.mask))
        return logits
