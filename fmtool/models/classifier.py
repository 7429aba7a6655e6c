"""The classifier that every stage runs: a network with its preprocessing inside, frozen, in eval mode, folded for speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.datasets.rows import to_float
from fmtool.errors import ModelError, UnclassifiedError, first_line, warn
from fmtool.models import replicas
from fmtool.models.copies import copied
from fmtool.models.equivalence import Form, Reference
from fmtool.models.foreign_code import strict_float32
from fmtool.runtime import threads
from fmtool.runtime.failures import device_lost, out_of_memory
from fmtool.runtime.journal import NO_JOURNAL, Journal, each

# Pixels per batch at which a CPU core (32 images of 3x32x32) or a GPU is fastest; see `batch_size`.
CPU_BATCH_PIXELS = 32 * 3 * 32 * 32
GPU_BATCH_PIXELS = 1024 * 3 * 32 * 32
READING_AHEAD = 2  # workers of a pass on a GPU: one reads while the other computes
NO_CLASS = -1  # of an image whose logits are not all finite
SMALLEST_BATCH, LARGEST_BATCH = 8, {"cpu": 256, "cuda": 2048}


class Classifier(nn.Module):
    """Images (n, c, h, w) in [0, 1] to logits (n, classes): (x - mean) / std, the network, then `keep_classes` of its outputs.

    memory_format: the memory layout of the network's images.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        keep_classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.memory_format = torch.contiguous_format
        self.padded = True  # batches are filled up to one size, so that each image rounds alike
        self.mean: Tensor | None
        self.std: Tensor | None
        self.keep_classes: Tensor | None
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, None if values is None else torch.tensor(values).view(-1, 1, 1))
        self.register_buffer("keep_classes", None if keep_classes is None else torch.tensor(keep_classes))

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) float to (n, classes) logits of the same dtype. ModelError reports what the network raises."""
        logits = logits_in(self.raw(images))
        if logits is None:
            raise ModelError("the network gives no logits")
        if logits.ndim == 1 and len(images) == 1:  # of a network that ends in squeeze()
            logits = logits[None]
        logits = logits.to(images.dtype)
        return logits if self.keep_classes is None else logits[:, self.keep_classes]

    def raw(self, images: Tensor) -> Any:
        """The network's output for images (n, c, h, w); it works on a copy, so it may change them."""
        if self.mean is not None and self.std is not None:
            own = ((images - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        else:
            own = images.clone(memory_format=self.memory_format)
        try:
            return replicas.forward(self.network, own)
        except Exception as error:  # third-party code may raise any exception
            if out_of_memory(error) or device_lost(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), "without a message")
            raise ModelError(f"the network's forward raised {type(error).__name__}: {reason}") from error


def logits_in(output: Any) -> Tensor | None:
    """The logits in a network's output: a tensor, `logits` of a dict or an object, the first tensor of a tuple; else None."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(logits, tuple | list):
        logits = next((one for one in logits if isinstance(one, Tensor)), None)
    return logits if isinstance(logits, Tensor) else None


def prepare(classifier: Classifier, device: torch.device, shape: Sequence[int]) -> Classifier:
    """A copy for attacking and mask fitting: on `device`, eval mode, weights frozen, batch norms folded, channels last.

    Every stage runs the same form, as FMN's adversarial images are so close to the boundary that different rounding may undo
    them. shape: that of its images (c, h, w). A step that changes logits or input gradients by more than rounding is skipped,
    and a warning says why.
    """
    given = copied(classifier).eval().requires_grad_(False).to(device)
    reference, ready = Reference(given, shape, device), given
    form: Form = _as_it_is
    for kind, step, effect in STEPS:
        if any(isinstance(module, kind) for module in given.modules()):
            after = _one_after_the_other(form, step)
            candidate, reason = reference.compared(after)
            if reason:
                warn(f"the network runs without {effect}: {reason}")
            else:
                form, ready = after, candidate
    return ready


def _as_it_is(classifier: Classifier) -> Classifier:
    return classifier


def _one_after_the_other(first: Form, second: Form) -> Form:
    return lambda classifier: second(first(classifier))


def channels_last(classifier: Classifier) -> Classifier:
    """A copy in the layout for which oneDNN's and cuDNN's convolutions are fastest."""
    changed = copied(classifier)
    changed.memory_format = torch.channels_last
    changed.network.to(memory_format=torch.channels_last)
    return changed


def lay_out(classifier: Classifier, shape: Sequence[int], device: torch.device) -> None:
    """Put a classifier on `device` in the faster layout for training, in place, if it computes the same function there."""
    frozen = copied(classifier).eval().requires_grad_(False)
    _, reason = Reference(frozen, shape, device).compared(channels_last)
    if reason:
        warn(f"the network is trained without the faster channels-last layout: {reason}")
    else:
        classifier.memory_format = torch.channels_last
        classifier.network.to(memory_format=torch.channels_last)


def fold_batch_norms(classifier: Classifier) -> Classifier:
    """A copy with each batch norm that follows a convolution merged into it. ModelError if that is impossible.

    torch.fx may trace a network wrongly: the caller must check that the copy computes the same function.
    """
    from torch.fx import symbolic_trace
    from torch.fx.experimental.optimization import fuse

    folded = copied(classifier)  # tracing may leave proxies in a network
    try:
        calls = [node.target for node in symbolic_trace(folded.network).graph.nodes if node.op == "call_module"]
        weighted = [name for name in calls if list(folded.network.get_submodule(str(name)).parameters(recurse=False))]
        network = fuse(folded.network, inplace=True)  # a copy of proxies would fail
    except Exception as error:  # tracing runs a third-party forward on proxies, which may raise any exception
        raise ModelError(f"torch.fx can't trace its forward ({first_line(error)})") from error
    if len(set(weighted)) < len(weighted):  # `fuse` would merge into it twice
        raise ModelError("it runs a layer twice")
    folded.network = network.eval().requires_grad_(False)
    return folded


# the layer type that makes a step useful, the step, and its effect, for the warning if it is skipped
STEPS: tuple[tuple[type[nn.Module], Form, str], ...] = (
    (nn.BatchNorm2d, fold_batch_norms, "its batch norms folded into convolutions"),
    (nn.Conv2d, channels_last, "the faster channels-last layout"),
)


def batch_size(shape: Sequence[int], device: torch.device) -> int:
    """Images per batch for images of shape (c, h, w): a power of two that depends only on shape and device type.

    So the same command gives the same bytes on another machine of the same kind.
    """
    pixels = CPU_BATCH_PIXELS if device.type == "cpu" else GPU_BATCH_PIXELS
    images = max(1, pixels // (shape[0] * shape[1] * shape[2]))
    largest = LARGEST_BATCH["cpu" if device.type == "cpu" else "cuda"]
    return min(max(1 << (images.bit_length() - 1), SMALLEST_BATCH), largest)


def pick_device(name: str) -> torch.device:
    """ "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N"; strict float32 from now on. ModelError if unavailable."""
    strict_float32()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda"):  # of others torch may lack operations, or have only shapes
            torch.zeros(1, device=device)
            return device
        reason = f"{device.type} isn't supported"
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
    raise ModelError(f"--device {name}: expected auto, cpu, cuda or cuda:N ({reason})")


def predict(
    classifier: nn.Module,
    images: Rows,
    size: int,
    device: torch.device,
    journal: Journal = NO_JOURNAL,
    name: str = "predictions",
    progress: Progress | None = None,
    *,
    strict: bool = True,
) -> Tensor:
    """(n) int64 predictions on the CPU, in batches padded to `size` images, so that a row's result depends on that row alone.

    images (n, c, h, w): uint8, or float in [0, 1]. journal: where to resume from; each batch is a part, under this name.
    UnclassifiedError if there are images of `NO_CLASS`; unless strict, these are among the predictions.
    """

    @torch.no_grad()
    def batch(start: int) -> Tensor:
        some = to_float(images[start : start + size])
        return classes_of(classifier(filled(classifier, some, size).to(device)))[: len(some)].cpu()

    # written into one tensor: small results that stay among large temporary ones would keep malloc from using their memory again
    predictions, done = torch.zeros(len(images), dtype=torch.int64), 0
    with threads.pool(device, threads.count(device) if device.type == "cpu" else READING_AHEAD) as pool:
        for some in each(journal, name, range(0, len(images), size), lambda starts: pool.map(batch, starts)):
            predictions[done : done + len(some)] = some
            done += len(some)
            if progress:
                progress(f"classifying, {name}", done, len(images))
    if strict:
        refuse_unclassified(predictions, name)
    return predictions


def classes_of(logits: Tensor) -> Tensor:
    """(n) int64: the class of each image's logits (n, k), `NO_CLASS` where they are not all finite. NaN counts as the largest."""
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(1), NO_CLASS)


def refuse_unclassified(predictions: Tensor, name: str) -> None:
    """UnclassifiedError if there are images of `NO_CLASS` among the predictions (n)."""
    rows = (predictions == NO_CLASS).nonzero().flatten().tolist()
    if rows:
        raise UnclassifiedError(
            f"{name}: the network gives logits that are not finite for {len(rows)} of {len(predictions)} images, "
            f"first for row {rows[0]}: leave them out, or fix the network"
        )


def warn_unclassified(count: int, of: int, images: str, effect: str) -> None:
    """Warn of a number of images of `NO_CLASS`, if there are any, and of what comes of it."""
    if count:
        warn(f"{count} of {of} {images} give logits that are not finite: {effect}")


def filled(classifier: nn.Module, rows: Tensor, size: int) -> Tensor:
    """Rows `padded`, or unchanged for a classifier whose logits depend on the whole batch."""
    return padded(rows, size) if is_padded(classifier) else rows


def is_padded(classifier: nn.Module) -> bool:
    """Whether batches for this network are filled up; False if an image's logits depend on its batch."""
    return bool(getattr(classifier, "padded", True))


def padded(rows: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size`, as a batch of another shape may round differently."""
    return rows if len(rows) == size else torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])
