"""Foolbox's attacks with the same results: gradient attacks that receive their starts, DeepFool with fewer forward passes.

Those of Carlini and Wagner and of Chen et al. (EAD) return images that they don't fool as they are, where Foolbox returns black;
the l0 variant of FMN outlasts images that no distance fools.
"""

from __future__ import annotations

from typing import Any

import eagerpy
import torch
from torch import Tensor

# begin with a best image of zeros, which a network may well call another class
BLACK = ("L2CarliniWagnerAttack", "EADAttack")


def variant(base: Any) -> Any:
    """The class to run in place of Foolbox's `base`, which may be `base` itself."""
    if base.__name__ == "L0FMNAttack":
        base = _within_the_image(base)
    if hasattr(base, "get_random_start"):
        return _with_given_starts(base)
    if hasattr(base, "_get_loss_fn"):
        return _with_one_forward_pass(base)
    return _with_images_for_black(base) if base.__name__ in BLACK else base


def _with_given_starts(base: Any) -> Any:
    """The same gradient attack, whose random start is epsilon times `starts` (n, c, h, w) away."""

    class Started(base):  # type: ignore[misc]
        starts: Any = None

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            if self.starts is None:
                return super().get_random_start(x0, epsilon)
            return x0 + epsilon * type(x0)(self.starts)

    Started.__name__ = base.__name__
    return Started


def _with_one_forward_pass(base: Any) -> Any:
    """DeepFool with one forward pass per step and one backward pass per class, where Foolbox does both for each class.

    Foolbox asks for the loss of one class after the other at the same images, class 1 first, and differentiates each. Here
    the graph of class 1's forward pass is kept, so that every gradient results from the same operations, bit for bit.
    """

    class OneForward(base):  # type: ignore[misc]
        def _get_loss_fn(self, model: Any, classes: Any) -> Any:
            if self.loss != "logits":
                return super()._get_loss_fn(model, classes)
            rows, ranked = torch.arange(len(classes)), classes.raw
            graph: list[Tensor] = []  # the images as a leaf, and the logits with their graph

            def loss_of(images: Any, k: int) -> Any:
                if k == 1:
                    leaf = images.raw.detach().requires_grad_()
                    graph[:] = [leaf, model(eagerpy.astensor(leaf)).raw]
                leaf, logits = graph
                losses = logits[rows, ranked[:, k]] - logits[rows, ranked[:, 0]]
                (gradient,) = torch.autograd.grad(losses.sum(), leaf, retain_graph=True)
                given = _Given.apply(images.raw, losses.detach(), gradient)
                wrapped = eagerpy.astensor(given)
                return wrapped.sum(), (wrapped, eagerpy.astensor(logits.detach()))

            return loss_of

    OneForward.__name__ = base.__name__
    return OneForward


def _within_the_image(base: Any) -> Any:
    """The same FMN attack, which ends with an error in Foolbox once an image's l0 bound is the number of its values."""

    class Within(base):  # type: ignore[misc]
        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            last = x.raw[0].numel() - 1  # counted from 0: keeps all values
            return super().project(x, x0, eagerpy.minimum(epsilon, last))

    Within.__name__ = base.__name__
    return Within


def _with_images_for_black(base: Any) -> Any:
    """The same attack, with the image itself in place of the black one that stands for not having found any."""

    class Found(base):  # type: ignore[misc]
        def run(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            images, restored = eagerpy.astensor_(inputs)
            found = eagerpy.astensor(super().run(model, inputs, *arguments, **options)).raw
            black = (found == 0).flatten(1).all(dim=1).view(-1, *[1] * (found.ndim - 1))
            return restored(type(images)(torch.where(black, images.raw, found)))

    Found.__name__ = base.__name__
    return Found


class _Given(torch.autograd.Function):
    """Losses (n) whose gradient with respect to the images (n, c, h, w) is already known."""

    @staticmethod
    def forward(context: Any, images: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        context.save_for_backward(gradient)
        return losses.clone()

    @staticmethod
    def backward(context: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return gradient * outer[0].view(-1, *[1] * (gradient.ndim - 1)), None, None
