"""The two-pass classifier (paper, section 4.8): predict, filter by the predicted class's mask, predict again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmtool.masks.basis import Basis
from fmtool.models.classifier import NO_CLASS, classes_of, is_padded


class TwoPass(nn.Module):
    """Images (n, c, h, w) in [0, 1] to the logits (n, k) of the second pass.

    masks (m, c, rows, columns) in [0, 1]; classes (m) int64, the class of each mask. An image whose predicted class has no
    mask passes unfiltered.
    """

    def __init__(self, classifier: nn.Module, masks: Tensor, classes: Tensor, class_count: int, basis: Basis) -> None:
        super().__init__()
        self.classifier, self.basis, self.padded = classifier, basis, is_padded(classifier)
        every = torch.ones(class_count, *masks.shape[1:], dtype=masks.dtype)
        every[classes.cpu()] = masks.cpu()
        self.classes: list[int] = sorted(classes.tolist())  # those that have a mask
        self.masks: Tensor
        self.register_buffer("masks", every)
        self.masked: Tensor
        self.register_buffer("masked", torch.zeros(class_count, dtype=torch.bool).index_fill_(0, classes.cpu(), True))

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k), NaN where the first pass gives no class. The gradient is that of the second pass through the
        selected mask: selecting has none.
        """
        with torch.no_grad():
            first = classes_of(self.classifier(images))
        chosen = first.clamp(min=0)
        filtered = self.basis.filter(images, self.masks[chosen])
        if len(self.classes) < len(self.masks):  # a mask of ones rounds, which undoes attacks that end at the boundary
            filtered = torch.where(self.masked[chosen][:, None, None, None], filtered, images)
        logits: Tensor = self.classifier(filtered)
        return logits.masked_fill((first == NO_CLASS)[:, None], torch.nan)


class OneMask(nn.Module):
    """Images (n, c, h, w) in [0, 1] to the logits (n, k) of the classifier on all of them filtered by one mask.

    mask (c, rows, columns) in [0, 1].
    """

    def __init__(self, classifier: nn.Module, mask: Tensor, basis: Basis) -> None:
        super().__init__()
        self.classifier, self.basis, self.padded = classifier, basis, is_padded(classifier)
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k)."""
        logits: Tensor = self.classifier(self.basis.filter(images, self.mask))
        return logits
