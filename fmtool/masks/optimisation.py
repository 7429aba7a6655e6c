"""The components of a mask's optimisation step: options, Adam, penalty, gradient, stopping test (paper, 3.1 and A.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fmtool.masks.objectives import objective
from fmtool.masks.registry import FOURIER, LABEL
from fmtool.models import compiling
from fmtool.models.compiling import InputGradient

LEARNING_RATE = 0.01  # A.3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's defaults
JUDGE_EVERY = 20  # steps between two float32 passes that decide when a fit in bfloat16 stops
WINDOW = 20  # losses whose mean the stopping test compares with the last one


@dataclass(frozen=True)
class FitOptions:
    """lambda_: weight of the l1 penalty, summed over the full mask. Stop at step e when e > min_steps and the loss is
    within `tolerance` (None for the objective's) of the mean of the last 20, or when e > max_steps; in bfloat16 see
    `unimproved`. batch: slots that advance together in a worker. compile_: compile the classifier's two passes, which rounds
    differently. precision: a name of `models.registry.PRECISIONS`. basis, objective: names of `masks.registry`. adapt_lambda:
    fit an image whose finished mask loses its target again, with half the lambda.
    """

    lambda_: float
    batch: int
    min_steps: int
    max_steps: int
    tolerance: float | None = None
    compile_: bool = False
    precision: str = "float32"
    basis: str = FOURIER
    adapt_lambda: bool = False
    objective: str = LABEL

    @property
    def judged(self) -> bool:
        """Whether a float32 pass every `JUDGE_EVERY` steps decides when to stop."""
        return self.precision == "bfloat16"


def passes_for_batches(
    classifier: nn.Module, shape: Sequence[int], dtype: torch.dtype, options: FitOptions, device: torch.device
) -> tuple[InputGradient, bool]:
    """The classifier's two passes at the shape of a batch, compiled if requested and possible; and whether so."""
    plain = compiling.input_gradient(classifier, options.precision, device)
    if options.compile_:
        images = torch.rand(options.batch, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device)
        targets = torch.zeros(options.batch, dtype=torch.int64, device=device)
        compiled = compiling.compiled(plain, images, targets, network=classifier, precision=options.precision)
        return compiled or plain, compiled is not None
    return plain, False


@dataclass(frozen=True)
class Adam:
    """Adam over a batch of masks, each with its own step count, clamped to [0, 1] after every step. All change in place.

    masks, mean, square (b, c, rows, columns); steps (b) int64.
    """

    masks: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def fresh(cls, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Adam:
        """Masks of ones."""
        masks = torch.ones(shape, dtype=dtype, device=device)
        steps = torch.zeros(shape[0], dtype=torch.int64, device=device)
        return cls(masks, torch.zeros_like(masks), torch.zeros_like(masks), steps)

    def step(self, slope: Tensor, active: Tensor) -> None:
        """slope (b, c, rows, columns): the full mask's gradient, symmetric. Masks that are not `active` (b) do not change,
        whatever their slope.
        """
        self.steps.add_(active)
        steps = self.steps.clamp_min(1).double()
        rate = LEARNING_RATE / (1 - BETA1**steps)
        correction = (1 - BETA2**steps).sqrt()
        self.mean.lerp_(slope, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
        divisor = self.square.sqrt().div_(per_mask(correction, slope)).add_(EPSILON)
        moved = (self.masks - per_mask(rate, slope) * self.mean / divisor).clamp_(0, 1)
        self.masks.copy_(torch.where(active.view(-1, 1, 1, 1), moved, self.masks))

    def step_some(self, slope: Tensor, active: Tensor) -> None:
        """As `step`, for masks that continue later: the moments of those that are not `active` do not change either."""
        mean, square, keeps = self.mean.clone(), self.square.clone(), ~active.view(-1, 1, 1, 1)
        self.step(slope, active)
        self.mean.copy_(torch.where(keeps, mean, self.mean))
        self.square.copy_(torch.where(keeps, square, self.square))


def l1_norm(masks: Tensor, weights: Tensor) -> Tensor:
    """(b) sum of each full mask's entries, which are never negative. weights (columns): `Basis.weights`."""
    return (masks.sum(dim=(1, 2)) * weights).sum(dim=1)


def settled(losses: Tensor, options: FitOptions, steps: Tensor) -> Tensor:
    """(b) bool: past min_steps, and the last loss within the tolerance of the mean of the window (NaN until that is full)."""
    return (steps > options.min_steps) & ((losses[:, -1] - losses.mean(dim=1)).abs() < _tolerance(options))


def unimproved(losses: Tensor, options: FitOptions, steps: Tensor) -> Tensor:
    """(b) bool: past min_steps, and the last loss not below the one before it by the tolerance.

    For fits in bfloat16, whose losses are those of float32 passes, `JUDGE_EVERY` steps apart. Rounding keeps such a mask moving:
    its loss changes by some 0.01 from step to step, so that `settled` waits for a chance.
    """
    return (steps > options.min_steps) & (losses[:, -2] - losses[:, -1] < _tolerance(options))


def _tolerance(options: FitOptions) -> float:
    return objective(options.objective).tolerance if options.tolerance is None else options.tolerance


def per_mask(values: Tensor, like: Tensor) -> Tensor:
    """Values (b) with the dtype of `like`, as (b, 1, 1, 1), to be broadcast over masks."""
    return values.to(like.dtype).view(-1, 1, 1, 1)
