"""A basis: how images become the coefficients that masks multiply, and back, and what a mask's entries mean.

Everything that depends on the basis goes through this interface, so that a basis is one file in `bases` and one line in
`registry.BASES`. The command line may import this, so NumPy and torch are imported inside methods.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from fmtool.artifacts.rows import ROWS_OF_FILE
from fmtool.errors import ArtifactError, MaskError
from fmtool.masks.registry import BASES, EXPECTED, FOURIER

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

EXACT = 12  # decimals of a radial frequency: 0.125 must be 0.125 in whatever row and column
KEPT = 1e-3  # an entry above this counts as kept


class Basis(ABC):
    """A basis for images of h x w pixels; `basis_for` gives the one instance of each name and size, which must not be changed.

    A mask is stored as (..., rows, columns) in [0, 1], where `shape` is (rows, columns), and may hold each of several equal
    entries of the full mask only once. The defaults suit an orthonormal basis of real coefficients, all of them independent.
    """

    axes = "row and column of the coefficient"  # the axes' label in pictures of masks
    ticks: tuple[float, ...] = ()  # round values on them

    def __init__(self, name: str, h: int, w: int) -> None:
        self.name, self.h, self.w = name, h, w

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a stored mask."""
        return self.h, self.w

    @property
    def counts(self) -> Array:
        """(columns) float64: how often an entry in each column of the stored mask occurs in the full mask, 1 or 2."""
        import numpy as np

        return np.ones(self.shape[1])

    @property
    def entries(self) -> int:
        """Entries of a full mask, per channel."""
        return int(self.shape[0] * self.counts.sum())

    @property
    def frequencies(self) -> Array | None:
        """(rows, columns) float64: the radial frequency of each entry in cycles per pixel; None if entries have none."""
        return None

    @property
    def extent(self) -> tuple[float, float, float, float] | None:
        """Left, right, bottom, top of a picture in the unit of `axes`; None for the numbers of rows and columns."""
        return None

    def weights(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """`counts` as a tensor (columns)."""
        import torch

        return torch.as_tensor(self.counts, dtype=dtype, device=device)

    @abstractmethod
    def analyse(self, images: Tensor) -> Tensor:
        """Images (..., h, w) to coefficients (..., rows, columns), real or complex."""

    @abstractmethod
    def synthesise(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        """Filtered images (..., h, w) from masks (..., rows, columns) and coefficients; a mask of ones changes nothing."""

    def gradient(self, slope: Tensor, masks: Tensor, coefficients: Tensor) -> Tensor:
        """The derivative of a loss with respect to each entry of the full mask, (..., rows, columns), in new memory.

        slope (..., h, w): its derivative with respect to the filtered images that `synthesise` computes from the other two.
        """
        return coefficients * self.analyse(slope)

    def filter(self, images: Tensor, masks: Tensor) -> Tensor:
        """Images (..., h, w) filtered by masks (..., rows, columns), which are broadcast."""
        return self.synthesise(masks, self.analyse(images))

    def magnitudes(self, images: Tensor) -> Tensor:
        """Images (..., h, w) to the absolute values of their coefficients (..., rows, columns)."""
        return self.analyse(images).abs()

    def symmetrise_(self, masks: Tensor) -> Tensor:
        """Make entries that are stored more than once equal, in place: averages of values that differ by rounding."""
        return masks

    def orbits(self) -> list[tuple[Tensor, Tensor]]:
        """Groups of entries of the flattened stored mask that count equally often: places (m), and their equals (m).

        A value may move from one place of a group to another, together with its equal, without changing the full mask's norm.
        """
        import torch

        places = torch.arange(self.shape[0] * self.shape[1])
        return [(places, places)]

    def to_full(self, masks: Tensor) -> Tensor:
        """The full mask, each entry as often as it counts: what is compared between masks."""
        return masks

    def pool(self, full: Tensor, p: int) -> Tensor:
        """Full masks averaged over neighbours in frequency; see `Fourier.pool`."""
        raise MaskError(f"--pool: masks in the basis {self.name} can't be pooled, expected {FOURIER}")

    def picture(self, masks: Tensor) -> Tensor:
        """The full mask in the order in which figures show it."""
        return self.to_full(masks)

    def kept_entries(self, masks: Any) -> Array:
        """(n) int64: entries above `KEPT` of the full masks. masks (n, c, rows, columns): an array, tensor, or rows of a file."""
        import numpy as np

        blocks = (np.asarray(masks[start : start + ROWS_OF_FILE]) for start in range(0, len(masks), ROWS_OF_FILE))
        counted = [((block > KEPT) * self.counts).sum(axis=(1, 2, 3)) for block in blocks]
        return np.concatenate(counted or [np.zeros(0)]).astype(np.int64)


@lru_cache(maxsize=32)
def basis_for(name: str, h: int, w: int) -> Basis:
    """The basis of that name for images of h x w pixels; MaskError for an unknown name."""
    if name not in BASES:
        raise MaskError(f"--basis {name}: expected {EXPECTED}")
    module, _, implementation = BASES[name].partition(":")
    basis: Basis = getattr(importlib.import_module(f"fmtool.masks.bases.{module}"), implementation)(name, h, w)
    return basis


def basis_of(header: Mapping[str, Any], file: object) -> Basis:
    """The basis of a file of masks from its header; ArtifactError for one that this version doesn't know."""
    name, (h, w) = header.get("basis", FOURIER), header["image_size"]  # class masks of version 0.1 don't name it
    if name not in BASES:
        raise ArtifactError(f"{file}: its masks are in the basis {name!r}, expected {EXPECTED}")
    return basis_for(name, int(h), int(w))


def check_shape(masks: Any, header: Mapping[str, Any], file: object) -> Basis:
    """The basis of a file, after checking that its masks (n, c, rows, columns) have the right shape, else ArtifactError."""
    basis = basis_of(header, file)
    if tuple(masks.shape[2:]) != basis.shape:
        raise ArtifactError(
            f"{file}: masks are {list(masks.shape)}, which does not fit images of {list(header['image_size'])}"
        )
    return basis
