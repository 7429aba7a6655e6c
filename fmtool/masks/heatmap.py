"""What a classifier needs, asked directly: noise of one frequency at a time (Yin et al. 2019), and ideal filters.

Noise: x + r V U, clipped to [0, 1], where U is the real Fourier basis matrix of a frequency, of unit l2 norm, and r a random sign
for each channel. Filters keep the frequencies below, above or in a band of a radius; their images are not clipped, as with masks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.datasets.rows import to_float
from fmtool.masks import radial
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.registry import FILTERS, FOURIER
from fmtool.models.classifier import NO_CLASS, classes_of, padded, refuse_unclassified, warn_unclassified
from fmtool.runtime import threads
from fmtool.runtime.journal import Journal

SMALL_NORM, LARGE_NORM = (32, 4.0), (224, 15.7)  # Yin et al.: side in pixels, l2 norm for each channel
BATCHES = 64  # that are computed between two saves, at each of which all workers wait for the last


def default_norm(h: int, w: int) -> float:
    """The power of the side that passes through both norms of Yin et al.: 4 at 32x32, 15.7 at 224x224, 1.5 at 8x8."""
    exponent = math.log(LARGE_NORM[1] / SMALL_NORM[1]) / math.log(LARGE_NORM[0] / SMALL_NORM[0])
    return float(SMALL_NORM[1] * (math.sqrt(h * w) / SMALL_NORM[0]) ** exponent)


def distinct_frequencies(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Rows and columns (m, 2) int64 of the half spectrum's distinct frequencies, and which of them each entry (h, f) int64 is.

    In column 0, and in column w / 2 for even w, rows k and -k are one frequency.
    """
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w // 2 + 1), indexing="ij")
    mirrored = (columns == 0) | (2 * columns == w)
    rows = torch.where(mirrored, torch.minimum(rows, (h - rows) % h), rows)
    numbers, inverse = torch.unique(rows * (w // 2 + 1) + columns, return_inverse=True)
    return torch.stack([numbers // (w // 2 + 1), numbers % (w // 2 + 1)], dim=1), inverse


def waves(frequencies: Tensor, h: int, w: int) -> Tensor:
    """The real Fourier basis matrices (m, h, w) float32 of frequencies (m, 2): orthogonal cosines of unit l2 norm."""
    y, x = torch.arange(h, dtype=torch.float64) / h, torch.arange(w, dtype=torch.float64) / w
    down = 2 * math.pi * ((frequencies[:, :1] * y) % 1)
    across = 2 * math.pi * ((frequencies[:, 1:] * x) % 1)
    cosines = down.cos()[:, :, None] * across.cos()[:, None] - down.sin()[:, :, None] * across.sin()[:, None]
    unit: Tensor = cosines / cosines.flatten(1).norm(dim=1)[:, None, None]
    return unit.float()


def signs(row_seed: int, frequencies: int, channels: int) -> Tensor:
    """(frequencies, channels) float32 of 1 and -1, drawn from an image's seed alone."""
    drawn = np.random.default_rng(row_seed).integers(0, 2, size=(frequencies, channels))
    return torch.from_numpy(drawn).float() * 2 - 1


def filter_masks(basis: Basis) -> tuple[Tensor, Tensor]:
    """Masks (3 * radii, h, f) float32 of `FILTERS`, and the radii in cycles per pixel.

    At a radius the low-pass filter keeps bins of radial frequency (`radial.bins_of`) up to it, the high-pass filter those from it
    on, and the band-pass filter that bin alone.
    """
    bins = torch.from_numpy(radial.bins_of(basis))
    places = torch.arange(int(bins.max()) + 1)[:, None, None]
    masks = torch.cat([(bins <= places), (bins >= places), (bins == places)]).float()
    return masks, places.flatten().double() / radial.per_cycle(basis.h, basis.w)


@dataclass(frozen=True)
class Sensitivity:
    """wrong (n, h, f) bool and loss (n, h, f) float32 of each image under noise of each frequency, wrong and NaN where that
    leaves no class; clean_wrong (n) bool; filtered_right (n, 3, radii) bool, without filters (n, 3, 0).
    """

    wrong: Tensor
    loss: Tensor
    clean_wrong: Tensor
    filtered_right: Tensor


@dataclass(frozen=True)
class Evaluation:
    """A classifier ready to be asked, and how."""

    classifier: nn.Module
    batch: int
    device: torch.device
    progress: Progress | None
    journal: Journal

    def each(self, name: str, changes: int, labels: Tensor, change: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """For each image in turn, the losses (changes) and predictions (changes) of all its changed versions.

        change(rows, numbers) gives images (m, c, h, w): rows (m) and numbers (m) say which version of which image. A batch is
        always full, so that a result depends on its image alone. `BATCHES` batches are a part of the journal under this name,
        wherever images begin: at 224x224 an image has 25,090 noisy versions, which take a CPU most of an hour.
        """
        total, block = len(labels) * changes, BATCHES * self.batch

        @torch.no_grad()
        def one_batch(jobs: Tensor) -> tuple[Tensor, Tensor]:
            rows, numbers = jobs // changes, jobs % changes
            some = padded(change(rows, numbers), self.batch).to(self.device)
            logits = self.classifier(some)[: len(jobs)].cpu()
            return F.cross_entropy(logits, labels[rows], reduction="none").float(), classes_of(logits)

        losses, predictions = torch.empty(0), torch.empty(0, dtype=torch.int64)  # of the images not yet complete
        with threads.pool(self.device) as pool:
            for start in range(0, total, block):
                end = min(start + block, total)
                part = self.journal.part(f"{name} from {start}")
                if part is None:
                    batches = threads.batches(torch.arange(start, end), self.batch)
                    results = zip(*pool.map(one_batch, batches), strict=True)
                    part = dict(zip(("losses", "predictions"), map(torch.cat, results), strict=True))
                    self.journal.finish(f"{name} from {start}", part)
                if self.progress is not None:
                    self.progress(name, end, total)
                losses, predictions = torch.cat([losses, part["losses"]]), torch.cat([predictions, part["predictions"]])
                while len(losses) >= changes:
                    yield losses[:changes], predictions[:changes]
                    losses, predictions = losses[changes:], predictions[changes:]


def sensitivity(
    evaluation: Evaluation, images: Rows, labels: Tensor, row_seeds: Sequence[int], norm: float, *, filters: bool
) -> Sensitivity:
    """Ask the classifier about images (n, c, h, w), uint8 or float in [0, 1], with labels (n) int64.

    row_seeds: one number an image, from which its signs are drawn; norm: V, the l2 norm for each channel.
    UnclassifiedError if there are images without a class as they are; changed ones are wrong, and a warning counts them.
    """
    n, (c, h, w) = len(labels), images.shape[1:]
    frequencies, inverse = distinct_frequencies(int(h), int(w))
    basis = basis_for(FOURIER, int(h), int(w))

    def clean(rows: Tensor, numbers: Tensor) -> Tensor:
        return to_float(images[rows])

    def noisy(rows: Tensor, numbers: Tensor) -> Tensor:
        kinds, places = torch.unique(rows, return_inverse=True)
        drawn = torch.stack([signs_of(row) for row in kinds.tolist()])[places, numbers]
        noise = norm * waves(frequencies[numbers], int(h), int(w))
        return (to_float(images[kinds])[places] + drawn[:, :, None, None] * noise[:, None]).clamp(0, 1)

    def filtered(rows: Tensor, numbers: Tensor) -> Tensor:
        kinds, places = torch.unique(rows, return_inverse=True)
        return basis.filter(to_float(images[kinds])[places], masks[numbers][:, None])

    @functools.lru_cache(maxsize=256)
    def signs_of(row: int) -> Tensor:
        return signs(row_seeds[row], len(frequencies), int(c))

    predicted = [predictions for _, predictions in evaluation.each("clean images", 1, labels, clean)]
    clean_predictions = torch.cat([*predicted, labels[:0]])
    refuse_unclassified(clean_predictions, "clean images")
    wrong = torch.zeros(n, *inverse.shape, dtype=torch.bool)
    loss, lost = torch.zeros(n, *inverse.shape), 0
    results = evaluation.each("noise of each frequency", len(frequencies), labels, noisy)
    for row, (losses, predictions) in enumerate(results):
        no_class = predictions == NO_CLASS
        lost += int(no_class.sum())
        wrong[row], loss[row] = (predictions != labels[row])[inverse], losses.masked_fill(no_class, torch.nan)[inverse]
    effect = "they count as wrong, and mean losses leave them out"
    warn_unclassified(lost, n * len(frequencies), "noisy images", effect)
    masks, radii = filter_masks(basis)
    right = torch.zeros(n, len(FILTERS), len(radii) if filters else 0, dtype=torch.bool)
    if filters:
        lost = 0
        for row, (_, predictions) in enumerate(evaluation.each("filters", len(masks), labels, filtered)):
            lost += int((predictions == NO_CLASS).sum())
            right[row] = (predictions == labels[row]).reshape(len(FILTERS), len(radii))
        warn_unclassified(lost, n * len(masks), "filtered images", "they count as wrong")
    return Sensitivity(wrong, loss, clean_predictions != labels, right)
