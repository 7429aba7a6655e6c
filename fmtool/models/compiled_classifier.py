"""A classifier whose passes over batches of one shape are compiled graphs, for code that takes it for an ordinary network.

torch.compile makes one graph of the forward pass and another of the backward pass. A single graph of both is faster, but has to
contain the loss. So a `CompiledClassifier` is told what loss will follow: it computes the gradient of that loss together with the
logits, and hands it over when autograd asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.models import compiling
from fmtool.models.classifier import is_padded
from fmtool.models.equivalence import random_images
from fmtool.runtime import threads

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (b, k) and labels (b) to a loss for each image (b)

_labels: ContextVar[Tensor | None] = ContextVar("labels", default=None)


@contextmanager
def labelled(labels: Tensor) -> Iterator[None]:
    """In the body, the batches that this thread passes through a `CompiledClassifier` have these labels (b) in its loss."""
    token = _labels.set(labels)
    try:
        yield
    finally:
        _labels.reset(token)


class CompiledClassifier(nn.Module):
    """Images (b, c, h, w) float32 to logits (b, k) by compiled graphs; batches of other shapes go through the plain classifier.

    A pass that will be differentiated gives the gradient of the loss; if autograd asks for another one, the plain classifier's.
    """

    def __init__(
        self,
        classifier: nn.Module,
        logits: Callable[[Tensor], tuple[Tensor]],
        input_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None,
        loss: Loss | None,
        shape: torch.Size,
    ) -> None:
        super().__init__()
        self.classifier, self.padded = classifier, is_padded(classifier)
        self.logits, self.input_gradient, self.loss, self.shape = logits, input_gradient, loss, shape
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, h, w) to (b, k)."""
        labels, differentiated = _labels.get(), torch.is_grad_enabled() and images.requires_grad
        if images.shape != self.shape or (differentiated and (self.input_gradient is None or labels is None)):
            plain: Tensor = self.classifier(images)
            return plain
        given = images.detach().contiguous()
        if not differentiated:
            return self.logits(given)[0]
        assert self.input_gradient is not None and labels is not None
        _, logits, gradient = self.input_gradient(given, labels)
        differentiable: Tensor = _Known.apply(images, logits, gradient, labels, self)
        return differentiable


class _Known(torch.autograd.Function):
    """Logits (b, k) of which the gradient (b, c, h, w) of one loss is known."""

    @staticmethod
    def forward(
        context: Any, images: Tensor, logits: Tensor, gradient: Tensor, labels: Tensor, by: CompiledClassifier
    ) -> Tensor:
        context.save_for_backward(images, logits, gradient, labels)
        context.by = by
        return logits.clone()

    @staticmethod
    def backward(context: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        images, logits, gradient, labels = context.saved_tensors
        by, (slope,) = context.by, outer
        known = (slope == _slope(by.loss, logits, labels)).all(dim=1)  # the same loss has the same slope, bit for bit
        if not known.all():
            with torch.enable_grad():
                leaf = images.detach().requires_grad_()
                (plain,) = torch.autograd.grad(by.classifier(leaf), leaf, slope)
            gradient = torch.where(known.view(-1, 1, 1, 1), gradient, plain)
        return gradient, None, None, None, None


def _slope(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """(b, k): the gradient of each image's loss with respect to its logits."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
    return slope


def compiled(
    classifier: nn.Module, shape: Sequence[int], batch: int, device: torch.device, loss: Loss | None = None
) -> nn.Module:
    """The classifier compiled for batches (batch, c, h, w) of images of shape (c, h, w); itself, with a warning, if it can't be.

    loss: the one whose gradient will be asked for, of logits and of the labels that `labelled` gives; None if none will be.
    """
    images = random_images(batch, shape).to(device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def both() -> nn.Module:
        logits = compiling.compiled(lambda images: (classifier(images),), images, network=classifier)
        if logits is None:
            return classifier
        if loss is None:
            return CompiledClassifier(classifier, logits, None, None, images.shape)
        plain = compiling.input_gradient(classifier, device=device, loss=loss)
        gradient = compiling.compiled(plain, images, labels, network=classifier)
        return classifier if gradient is None else CompiledClassifier(classifier, logits, gradient, loss, images.shape)

    with threads.pool(device, 1) as pool:  # the code depends on the number of threads that it is compiled for
        return pool.submit(both).result()
