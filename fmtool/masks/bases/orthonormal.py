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
        return (a @ (images.to(a.dtype) @ b.mT)).to(images.dtype)

    def synthesise(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        filtered = masks * coefficients
        a, b = self._tensors(filtered)
        return (a.mT @ (filtered.to(a.dtype) @ b)).to(filtered.dtype)

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A and B on the device of `like`, created once, as a CUDA graph can't copy them. With its dtype, but float64 where the
        network's float32 products are computed in TF32: those of masks never are.
        """
        import torch

        dtype = torch.float64 if torch.backends.cuda.matmul.allow_tf32 else like.dtype
        key = (dtype, like.device)
        if key not in self._tensors_by_place:
            a, b = (torch.as_tensor(matrix, dtype=dtype, device=like.device) for matrix in self.matrices)
            self._tensors_by_place[key] = a, b
        return self._tensors_by_place[key]

    @cached_property
    def _tensors_by_place(self) -> dict[object, tuple[Tensor, Tensor]]:
        return {}
