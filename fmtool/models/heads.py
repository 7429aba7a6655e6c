"""The inputs of a classifier's last layer, which can then be trained alone (paper, A.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.datasets.rows import to_float
from fmtool.errors import ModelError
from fmtool.models.classifier import Classifier
from fmtool.runtime.journal import Journal, each

# what may turn the last layer's output into logits: nothing or, after a convolution, a mean over the image
TAILS: tuple[nn.Module, ...] = (
    nn.Identity(),
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)
OTHER_HEAD = "the network's last layer does not give its logits: train all of it instead"


@torch.no_grad()
def features(
    classifier: Classifier,
    head: nn.Module,
    images: Rows,
    batch: int,
    device: torch.device,
    progress: Progress | None,
    journal: Journal,
) -> tuple[Tensor, nn.Module]:
    """(n, ...): the inputs of `head`, captured by a hook; and the module that turns its output into logits.

    images (n, c, h, w) uint8 or float in [0, 1]; batch: images a forward pass. ModelError if no known module does.
    """
    caught: list[Tensor] = []
    tail: nn.Module = TAILS[0]

    def catch(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        caught.append(inputs[0] if inputs else next(iter(named.values())))

    hook = head.register_forward_hook(catch, with_kwargs=True)

    def one_batch(start: int) -> Tensor:
        caught.clear()
        logits = classifier(to_float(images[start : start + batch]).to(device))
        inputs = (caught or [logits])[-1]  # a forward may call its last layer more than once
        if not _gives(logits, tail, head(inputs)):
            raise ModelError(OTHER_HEAD)
        if progress:
            progress("computing features", min(start + batch, len(images)), len(images))
        return inputs

    try:
        logits = classifier(to_float(images[:batch]).to(device))
        outputs = head(caught[-1]) if caught else None
        known = next((one for one in TAILS if _gives(logits, one, outputs)), None)
        if known is None:
            raise ModelError(OTHER_HEAD)
        tail = known
        parts = each(journal, "features", range(0, len(images), batch), lambda starts: map(one_batch, starts))
        # into one tensor, see `classifier.predict`
        found = torch.empty((len(images), *caught[-1].shape[1:]), dtype=caught[-1].dtype, device=device)
        for start, part in zip(range(0, len(images), batch), parts, strict=True):
            found[start : start + len(part)] = part
        return found, tail
    finally:
        hook.remove()


def _gives(logits: Tensor, tail: nn.Module, outputs: Tensor | None) -> bool:
    """Whether a tail makes these logits of the last layer's output; not where it takes no such output, or there is none."""
    if outputs is None or (outputs.ndim != 4 and tail is not TAILS[0]):
        return False
    return torch.equal(tail(outputs).to(logits.dtype), logits)
