"""What bases made of one orthonormal matrix a side have in common: C = A X B^T for images X, back by the transposes."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from fmtool.masks.basis import Array, Basis

if TYPE_CHECKING:
    from torch import Tensor


class Orthonormal(Basis):
    """Real coefficients (h, w): A for the columns of an image, B for its rows."""

    @abstractmethod
    def matrix(self, n: int) -> Array:
        """(n, n) float64, orthonormal: a row a coefficient."""

    @cached_property
    def sides(self) -> tuple[Array, Array]:
        """A and B."""
        return self.matrix(self.h), self.matrix(self.w)

    def analyse(self, images: Tensor) -> Tensor:
        a, b = self._tensors(images)
        return a @ (images @ b.mT)

    def synthesise(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        filtered = masks * coefficients
        a, b = self._tensors(filtered)
        return a.mT @ (filtered @ b)

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A and B with the dtype and on the device of `like`: made once, as a CUDA graph can't copy them."""
        import torch

        key = (like.dtype, like.device)
        if key not in self._made:
            a, b = (torch.as_tensor(side, dtype=like.dtype, device=like.device) for side in self.sides)
            self._made[key] = a, b
        return self._made[key]

    @cached_property
    def _made(self) -> dict[object, tuple[Tensor, Tensor]]:
        return {}
