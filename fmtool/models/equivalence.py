"""Whether two forms of a network are the same function: logits and input gradients, equal but for rounding."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.errors import ModelError, first_line
from fmtool.models.copies import copied
from fmtool.runtime.failures import device_lost, out_of_memory

# Images a batch and their brightest pixel: networks may branch on either.
BATCHES = ((2, 1.0), (1, 0.3), (3, 1.0))
# Largest difference between two forms of a network, as a share of an image's largest logit and of its input gradient's norm.
# In float32 two forms may be further apart than CLOSE because a rectifier switches through rounding: then they must agree in
# float64, where none does. A network that has no float64 form must agree closely in float32.
EXACT, ROUNDED, CLOSE = (1e-9, 1e-7), (1e-3, 5e-2), (1e-5, 1e-4)
LARGEST_IN_FLOAT64 = 2**28  # numbers in a network that is copied to float64 for this: 2 GiB

Forward = Callable[[Tensor], Tensor]
Form = Callable[[Any], Any]  # makes another form of a classifier, which is not changed


@dataclass(frozen=True)
class Passes:
    """The results of a forward and a backward pass: logits (n, k), gradient (n, c, h, w) of a random combination of them; or, if
    the network failed, only its error.
    """

    logits: Tensor
    gradient: Tensor
    error: Exception | None = None


class Reference:
    """The passes of the original network, for comparison with faster forms of it.

    network: images (n, c, h, w) to logits, frozen, in eval mode, on `device`; shape: that of an image.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        device: torch.device,
        batches: Sequence[tuple[int, float]] = BATCHES,
    ) -> None:
        self.device = device
        self.batches = [_images(n, brightest, shape) for n, brightest in batches]
        self.passes = [passes(network, images.to(device)) for images in self.batches]
        errors = [one.error for one in self.passes]
        if errors[0] is not None and None not in errors:
            raise _as_model_error(errors[0])
        self.network = network

    def compared(self, form: Form) -> tuple[Any, str]:
        """Another form of the network, and how it differs, as the end of a sentence; empty if it doesn't."""
        try:
            network = form(self.network)
        except ModelError as error:
            return None, str(error)
        outcomes = [passes(network, images.to(self.device)) for images in self.batches]
        reason = self._first_difference(outcomes, CLOSE)
        if reason and not self._first_difference(outcomes, ROUNDED) and self._same_in_float64(form):
            reason = ""
        return network, reason

    def _same_in_float64(self, form: Form) -> bool:
        """Whether both agree in float64; False if the network is too large for that, fails or computes in float32."""
        if sum(tensor.numel() for tensor in [*self.network.parameters(), *self.network.buffers()]) > LARGEST_IN_FLOAT64:
            return False
        exact = copied(self.network).double()
        images = self.batches[0].double().to(self.device)
        expected, actual = passes(exact, images), passes(form(exact), images)
        return (
            expected.error is None
            and expected.logits.dtype == torch.float64
            and not difference(actual, expected, EXACT)
        )

    def _first_difference(self, outcomes: Sequence[Passes], bounds: tuple[float, float]) -> str:
        pairs = zip(outcomes, self.passes, strict=True)
        return next((reason for one, other in pairs if (reason := difference(one, other, bounds))), "")


def passes(network: Forward, images: Tensor, seed: int = 0) -> Passes:
    """One forward and one backward pass. A network that draws random numbers draws them from this seed."""
    images = images.detach().requires_grad_()
    weights = torch.Generator().manual_seed(seed)
    try:
        # torch.fx prints when its networks fail
        with _seeded(seed, images.device), torch.enable_grad(), contextlib.redirect_stderr(io.StringIO()):
            logits = network(images)
            combined = torch.randn(logits.shape, generator=weights, dtype=torch.float64).to(logits)
            gradient = None
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad((logits * combined).sum(), images, allow_unused=True)
    except Exception as error:  # third-party code may raise any exception
        if out_of_memory(error) or device_lost(error):
            raise
        return Passes(torch.zeros(0), torch.zeros(0), error)
    return Passes(logits.detach(), torch.zeros_like(images) if gradient is None else gradient)


def _as_model_error(error: Exception) -> ModelError:
    """An error of both passes as one line; a ModelError of the forward pass already is one."""
    if isinstance(error, ModelError):
        return error
    reason = next(iter(str(error).strip().splitlines()), "without a message")
    model_error = ModelError(f"the network's forward and backward pass raised {type(error).__name__}: {reason}")
    model_error.__cause__ = error
    return model_error


def difference(one: Passes, other: Passes, bounds: tuple[float, float] = ROUNDED) -> str:
    """How `one` differs from `other`, the passes of the original network; empty if it doesn't."""
    if one.error is not None:
        # nothing to compare at a batch size that the network doesn't accept
        return "" if other.error is not None else f"it would fail ({first_line(one.error)})"
    if other.error is not None:
        return "it would run where the network fails"
    if one.logits.shape != other.logits.shape:
        return f"it would give {list(one.logits.shape)} for {list(other.logits.shape)}"
    pairs: tuple[tuple[str, Tensor, Tensor, float], ...] = (
        ("logits", one.logits, other.logits, math.inf),
        ("input gradients", one.gradient, other.gradient, 2.0),
    )
    for (name, actual, expected, order), bound in zip(pairs, bounds, strict=True):
        share = _distance(actual, expected, order)
        if not share <= bound:  # also true of NaN
            return f"its {name} would differ{f' by {100 * share:.2g} %' if math.isfinite(share) else ''}"
    return ""


def _distance(actual: Tensor, expected: Tensor, order: float) -> float:
    """The largest distance of an image's numbers, as a share of the expected ones' norm."""
    rows = [values.flatten(1).double() for values in (actual, expected)]
    gap, size = (torch.linalg.vector_norm(values, order, dim=1) for values in (rows[0] - rows[1], rows[1]))
    return float(torch.where(gap == 0, gap, gap / size).max())


def _images(n: int, brightest: float, shape: Sequence[int]) -> Tensor:
    return brightest * random_images(n, shape, seed=n)


def random_images(n: int, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Images (n, c, h, w) float32, uniform in [0, 1], on the CPU, the same for a seed whatever torch's default dtype is."""
    return torch.rand(n, *shape, dtype=torch.float32, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
