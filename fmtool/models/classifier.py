"""The classifier that every stage runs: a network with its preprocessing inside, frozen, in eval mode, folded for speed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.datasets.rows import to_float
from fmtool.errors import ModelError
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal, each

# Pixels of a batch that a CPU core is fastest at (32 images of 3x32x32), or a GPU; see `batch_size`.
CPU_BATCH_PIXELS = 32 * 3 * 32 * 32
GPU_BATCH_PIXELS = 1024 * 3 * 32 * 32
SMALLEST_BATCH, LARGEST_BATCH = 8, {"cpu": 256, "cuda": 2048}


class Classifier(nn.Module):
    """Images (n, c, h, w) in [0, 1] to logits (n, classes): (x - mean) / std, the network, then `keep_classes` of its outputs."""

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        keep_classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor | None
        self.std: Tensor | None
        self.keep_classes: Tensor | None
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, None if values is None else torch.tensor(values).view(-1, 1, 1))
        self.register_buffer("keep_classes", None if keep_classes is None else torch.tensor(keep_classes))

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) float to (n, classes) logits."""
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        # oneDNN's and cuDNN's convolutions are fastest when the channels lie next to each other
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits if self.keep_classes is None else logits[:, self.keep_classes]


def prepare(classifier: Classifier, device: torch.device, shape: Sequence[int] | None = None) -> Classifier:
    """A copy for attacking and mask fitting: on `device`, eval mode, weights frozen, batch norms folded, channels last.

    Every stage runs this same form: an FMN adversarial lies so close to the boundary that another rounding may undo it.
    shape: that of its images (c, h, w), to check that folding changes no logits but by rounding; where it does, as in a
    forward that torch.fx traces wrongly, the network stays as it is.
    """
    ready = copy.deepcopy(classifier).cpu().eval()
    whole, folded = ready.network, fold_batch_norms(ready.network)
    if shape is None or folded is whole or _agree(ready, folded, shape):
        ready.network = folded
    ready = ready.requires_grad_(False).to(device)
    ready.network.to(memory_format=torch.channels_last)
    return ready


@torch.no_grad()
def _agree(classifier: Classifier, folded: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the classifier gives the same logits, but for rounding, with its network folded."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    plain = classifier(images)
    kept = Classifier(folded)
    kept.mean, kept.std, kept.keep_classes = classifier.mean, classifier.std, classifier.keep_classes
    largest = float(plain.abs().max())
    # weights that are not finite allow no comparison
    return math.isfinite(largest) and torch.allclose(kept(images), plain, rtol=1e-3, atol=1e-3 * largest)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Merge each batch norm that follows a convolution into it.

    A network that torch.fx can't trace stays as it is, and one that runs a layer twice: `fuse` would merge into it twice.
    """
    from torch.fx import symbolic_trace
    from torch.fx.experimental.optimization import fuse

    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        calls = [node.target for node in symbolic_trace(network).graph.nodes if node.op == "call_module"]
        weighted = [name for name in calls if list(network.get_submodule(str(name)).parameters(recurse=False))]
        if len(set(weighted)) < len(weighted):
            return network
        folded = fuse(network)
    except Exception:  # tracing runs somebody's forward on stand-ins, which may raise anything at all
        return network
    folded.eval()
    return folded


def batch_size(shape: Sequence[int], device: torch.device) -> int:
    """Images a batch for images of shape (c, h, w): a power of two, found from shape and kind of device alone.

    So the same command gives the same bytes on the next machine of its kind.
    """
    pixels = CPU_BATCH_PIXELS if device.type == "cpu" else GPU_BATCH_PIXELS
    images = max(1, pixels // (shape[0] * shape[1] * shape[2]))
    largest = LARGEST_BATCH["cpu" if device.type == "cpu" else "cuda"]
    return min(max(1 << (images.bit_length() - 1), SMALLEST_BATCH), largest)


def pick_device(name: str) -> torch.device:
    """ "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N"; strict float32 from here on. ModelError where there is none."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"--device {name}: expected auto, cpu, or a GPU that torch can use ({reason})") from None
    return device


def predict(
    classifier: nn.Module,
    images: Rows,
    size: int,
    device: torch.device,
    journal: Journal = NO_JOURNAL,
    name: str = "predictions",
) -> Tensor:
    """(n) int64 predictions on the CPU, in batches padded to `size` images, so that a row's result hangs on that row alone.

    images (n, c, h, w): uint8, or float in [0, 1]. journal: where to resume from; each batch is a part, under this name.
    """

    @torch.no_grad()
    def batch(start: int) -> Tensor:
        some = to_float(images[start : start + size])
        found: Tensor = classifier(padded(some, size).to(device)).argmax(1).cpu()
        return found[: len(some)]

    with threads.pool(device) as pool:
        found = list(each(journal, name, range(0, len(images), size), lambda starts: pool.map(batch, starts)))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def padded(rows: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size`: a batch of another shape may round otherwise."""
    return rows if len(rows) == size else torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])
