"""What a mask is fitted for, beside its penalty: losses of the logits of filtered images.

Each takes logits (b, k), targets (b) int64, and the logits of the unfiltered images (b, k), and gives a loss for each image (b).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fmtool.errors import MaskError, unknown
from fmtool.masks.registry import OBJECTIVES

LARGEST_EXPONENT = 35.0  # Adam squares the gradient: the square of its exp fits float32, with room for other factors


def label(logits: Tensor, targets: Tensor, unfiltered: Tensor) -> Tensor:
    """Cross-entropy with the target (paper, section 3.1)."""
    return F.cross_entropy(logits, targets, reduction="none")


def invariance(logits: Tensor, targets: Tensor, unfiltered: Tensor) -> Tensor:
    """exp(d^2), d the change in cross-entropy (Karantzas et al. 2022, the paper's reference 19, as their code has it).

    Where d^2 exceeds 35, the loss continues as its tangent, because exp soon overflows float32. Their code has no such guard.
    """
    before = F.cross_entropy(unfiltered, targets, reduction="none")
    square = (F.cross_entropy(logits, targets, reduction="none") - before) ** 2
    return square.clamp(max=LARGEST_EXPONENT).exp() * (1 + (square - LARGEST_EXPONENT).clamp(min=0))


def distribution(logits: Tensor, targets: Tensor, unfiltered: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the filtered image's softmax from the unfiltered one's, in nats."""
    before, after = F.log_softmax(unfiltered, dim=1), F.log_softmax(logits, dim=1)
    return F.kl_div(after, before, reduction="none", log_target=True).sum(dim=1)


@dataclass(frozen=True)
class Objective:
    """A loss; whether it needs the unfiltered images' logits; whether lambda weights the share of entries, not their sum.

    tolerance: of the stopping test, a change of the penalised loss.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    compares: bool
    of_share: bool
    tolerance: float

    def losses(self, logits: Tensor, targets: Tensor, unfiltered: Tensor) -> Tensor:
        """(b) of the logits' dtype, computed in float64.

        A processor's vectors round exp and log otherwise than its scalars, which compiled loops of few numbers use, as in a
        narrow batch. Rounded to float32, both are the same but for one in a billion.
        """
        return self.loss(logits.double(), targets, unfiltered.double()).to(logits.dtype)


_OBJECTIVES = {
    "label": Objective(label, compares=False, of_share=False, tolerance=1e-5),  # authors' code
    # the limit that their code sets to the change of d^2, which it wants to hold in 300 steps in a row
    "invariance": Objective(invariance, compares=True, of_share=True, tolerance=1e-6),
    "distribution": Objective(
        distribution, compares=True, of_share=False, tolerance=1e-5
    ),  # as for `label`, which it resembles
}


def objective(name: str) -> Objective:
    """The objective of that name; MaskError for an unknown one."""
    if name not in _OBJECTIVES:
        raise MaskError(unknown("--objective", name, OBJECTIVES))
    return _OBJECTIVES[name]
