"""Inspect an imported network: refuse it, or warn of each problem in a line, following the flags of AutoAttack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.errors import ModelError, warn
from fmtool.models import compiling
from fmtool.models.classifier import Classifier, logits_in, padded
from fmtool.models.compiled_classifier import Loss, labelled
from fmtool.models.copies import copied
from fmtool.models.equivalence import passes, random_images
from fmtool.runtime import threads

IMAGES = 6
SAME_LOGITS = 1e-3  # of the largest: float32 rounds less, and another batch or draw changes more
SUM_TO_ONE = 1e-4
SLOTS_TRIED = 4  # images whose gradients are compared between positions in a batch


def check_outputs(output: Any) -> Tensor:
    """The logits (n, classes) in a network's output; ModelError says what the output is instead."""
    logits = logits_in(output)
    if logits is None:
        raise ModelError(f"the network gives {_described(output)}, expected a tensor of logits, or `logits` within")
    if isinstance(output, tuple | list) and not hasattr(output, "logits"):
        warn(f"the network gives {_described(output)}: its first tensor is used as the logits")
    if logits.ndim != 2 or not logits.is_floating_point() or not len(logits):
        raise ModelError(f"the network gives {_described(logits)}, expected logits (images, classes)")
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"the network gives logits that are not finite ({int((~torch.isfinite(logits)).sum())} of {logits.numel()})"
        )
    return logits


def warn_of_flags(classifier: Classifier, shape: Sequence[int], device: torch.device) -> None:
    """Warn of everything that makes attacks and masks misleading. The classifier is frozen, in eval mode, on `device`."""
    images = _drawn(shape, device)
    once = passes(classifier, images)
    if once.error is not None:
        return  # `Reference` reports what a pass raises
    if depends_on_mates(classifier, shape, device):
        warn(
            "an image's logits depend on the other images in its batch (batch norms without running statistics?): "
            "commands that run it need --batch-dependent"
        )
    flat = int((once.gradient == 0).flatten(1).all(dim=1).sum())
    if 2 * flat > len(images):
        warn(f"{flat} of {len(images)} random images have a gradient of 0: the network may only seem robust")
    if classifier.keep_classes is not None:  # a part of the probabilities doesn't sum to 1
        classifier = copied(classifier)
        classifier.keep_classes = None
        once = passes(classifier, images)
    rows = once.logits.double()
    if rows.shape[1] > 1 and bool((rows >= 0).all()) and float((rows.sum(1) - 1).abs().max()) < SUM_TO_ONE:
        warn("the network's outputs are probabilities (they sum to 1): attacks and masks expect logits")


def check_trainable(classifier: Classifier, shape: Sequence[int]) -> None:
    """ModelError unless training can change the network; a warning counts the weights that are frozen."""
    weights = list(classifier.parameters())
    frozen = sum(not weight.requires_grad for weight in weights)
    if frozen == len(weights):
        raise ModelError(
            f"all {frozen} tensors of weights are frozen (requires_grad is False): expected a network that can be trained, or "
            "--head-only, which trains a new last layer"
        )
    if frozen:
        warn(f"{frozen} of {len(weights)} tensors of weights are frozen (requires_grad is False) and keep their values")
    images = _drawn(shape, torch.device("cpu"))
    with torch.enable_grad():
        judged = classifier.raw(images)
    expected = logits_in(judged)
    if expected is None or not expected.requires_grad:
        raise ModelError("the logits have no gradient: expected a forward that doesn't run under torch.no_grad()")
    try:  # some networks give features, or logits of further heads, beside the logits, in training mode only
        with torch.no_grad():
            trained = copied(classifier).train().raw(images)
    except ModelError:
        return  # the first step of training reports it
    logits = logits_in(trained)
    if logits is None or logits.shape != expected.shape:
        raise ModelError(
            f"in training mode the network gives {_described(trained if logits is None else logits)} as its logits, expected "
            f"{_described(expected)}, as in eval mode"
        )
    if isinstance(trained, tuple | list | Mapping) and type(trained) is not type(judged) and len(trained) > 1:
        warn(f"in training mode the network gives {_described(trained)}: only the logits are trained on")


def depends_on_mates(classifier: Classifier, shape: Sequence[int], device: torch.device) -> bool:
    """Whether the logits of an image change beside other images, or alone. Warns of a random network, which can't be told."""
    images = _drawn(shape, device)
    mates = images.clone()
    mates[1:] = 1 - images[1:] ** 4
    expected, again = (passes(classifier, images, seed=seed) for seed in (0, 1))
    if expected.error is None and _apart(again.logits, expected.logits):
        warn(
            "the network's forward is random: the same image gives different logits, and attacks and masks follow only one draw"
        )
        return False
    others = [passes(classifier, batch) for batch in (mates, images[:1])]
    # a network that refuses a batch of one proves nothing
    return any(
        one.error is None and _apart(one.logits[:1], expected.logits[:1]) for one in others if expected.error is None
    )


def same_in_any_slot(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch: int,
    device: torch.device,
    loss: Loss | None = None,
) -> bool:
    """Whether the first images' input gradients are bitwise the same in other positions of a batch and beside other images.

    loss: whose gradients; cross-entropy unless given.
    """
    known = min(len(images), batch, SLOTS_TRIED)
    if not known:
        return True
    there = torch.arange(batch - 1, -1, -1) % known  # the first images in reverse order from the last slot, repeated

    def both() -> bool:
        passes, results = compiling.input_gradient(classifier, device=device, loss=loss), []
        for some in (padded(torch.arange(known), batch), there):
            targets = labels[some].to(device)
            with labelled(targets):
                results.append(passes(images[some].to(device), targets))
        return all(torch.equal(a[:known], b.flip(0)[:known]) for a, b in zip(*results, strict=True))

    with threads.pool(device) as pool:
        return pool.submit(both).result()


def _apart(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > SAME_LOGITS * other.abs().max())


def _drawn(shape: Sequence[int], device: torch.device) -> Tensor:
    return random_images(IMAGES, shape).to(device)


def _described(output: Any) -> str:
    """What an output is, in a few words."""
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    if isinstance(output, dict):
        return f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {', '.join(type(one).__name__ for one in output) or 'nothing'}"
    return f"an object of type {type(output).__name__}"
