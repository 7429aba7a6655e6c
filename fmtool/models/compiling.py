"""Compile a network where that pays, and go on with the plain one where it can't be done.

Compiling rounds differently, so whether it is done hangs on the amount of work alone, is an option (`--compile`), and is
recorded: the same command gives the same bytes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.errors import FmtoolWarning, ModelError, unknown
from fmtool.models import PRECISIONS

# Numbers that go through the network, images times passes times entries an image, from which compiling pays: it takes some
# 10 to 30 s and saves a sixth to a fifth of the time; 175,000 passes of a 3x32x32 image through ResNet-20 take 2 minutes.
PAYS_FROM = 2**29
# Share of the norm by which a compiled network may differ on one batch. Rounding differs by 1e-6, and in bfloat16 a gradient by
# 0.1 where rectifiers switch; something else than the network differs by 1 or more.
SAME = 0.3

# (images, targets) to cross-entropy (b), logits (b, k) and the gradient (b, c, h, w) of each image's loss for that image
InputGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def pays(passes: int, shape: Sequence[int]) -> bool:
    """Whether so many passes of one image of shape (c, h, w) are worth compiling for."""
    return passes * shape[0] * shape[1] * shape[2] >= PAYS_FROM


def trainable(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network compiled for forward and backward passes at one shape; on a GPU as a CUDA graph, one launch a pass."""
    return torch.compile(network, dynamic=False, mode="reduce-overhead" if device.type == "cuda" else "default")


def input_gradient(
    classifier: nn.Module, precision: str = "float32", device: torch.device | None = None
) -> InputGradient:
    """The two passes of a frozen classifier in eval mode, uncompiled. No gradient of a weight is computed.

    precision: a name of `PRECISIONS`; the losses, logits and gradients have the images' dtype in each.
    """
    kind = "cpu" if device is None else device.type
    if precision not in PRECISIONS:
        raise ModelError(unknown("--precision", precision, PRECISIONS))
    if precision == "tf32" and kind != "cuda":
        raise ModelError("--precision tf32: only a GPU computes in it, expected float32 or bfloat16 here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def plain(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = classifier(images)
            losses = F.cross_entropy(logits.to(images.dtype), targets, reduction="none")
            (gradient,) = torch.autograd.grad(losses.sum(), images)
        return losses.detach(), logits.detach().to(images.dtype), gradient

    return plain


def compiled_input_gradient(plain: InputGradient, images: Tensor, targets: Tensor) -> InputGradient | None:
    """Both passes as one graph, compiled for the shape, dtype and device of these images; None where that can't be done.

    The backward pass is traced beside the forward one, so that the compiler merges across them and keeps only what is read.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        with quiet():
            traced = make_fx(plain)(images, targets)
            compiled = torch.compile(traced, dynamic=False)
            with torch.no_grad():
                found = compiled(images, targets)
        expected = plain(images, targets)
    except Exception as error:  # a compiler that is missing, or somebody's network that it doesn't know
        cannot(error)
        return None
    if not all(_close(*pair) for pair in zip(found, expected, strict=True)):
        cannot("it computes something else")
        return None

    def run(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            result: tuple[Tensor, Tensor, Tensor] = compiled(images, targets)
        return result

    return run


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding, which one pixel's gradient at the edge of a rectifier may show more than the rest."""
    return float((found - expected).norm()) <= SAME * float(expected.norm())


def cannot(reason: object) -> None:
    """Say that the plain network runs in place of the compiled one."""
    text = (str(reason) or type(reason).__name__).strip().splitlines()[0]
    warnings.warn(FmtoolWarning(f"the network can't be compiled, and runs as it is: {text}"), stacklevel=3)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines that a compilation prints for developers of torch."""
    import logging

    loggers: list[Any] = [
        logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
