"""Bases that consist of an orthonormal matrix for each axis: C = A X B^T for images X, inverted by the transposes."""

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
        """(n, n) float64, orthonormal, one row per coefficient."""

    @cached_property
    def matrices(self) -> tuple[Array, Array]:
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
        """A and B with the dtype and on the device of `like`, created once, as a CUDA graph can't copy them."""
        import torch

        key = (like.dtype, like.device)
        if key not in self._tensors_by_place:
            a, b = (torch.as_tensor(matrix, dtype=like.dtype, device=like.device) for matrix in self.matrices)
            self._tensors_by_place[key] = a, b
        return self._tensors_by_place[key]

    @cached_property
    def _tensors_by_place(self) -> dict[object, tuple[Tensor, Tensor]]:
        return {}
