"""No transform: a mask dims pixels. A control that shows whether frequencies are special."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmtool.masks.basis import Basis

if TYPE_CHECKING:
    from torch import Tensor


class Pixels(Basis):
    """The coefficients of an image are its pixels."""

    axes = "column and row of the pixel"

    def analyse(self, images: Tensor) -> Tensor:
        return images

    def synthesise(self, masks: Tensor, coefficients: Tensor) -> Tensor:
        return masks * coefficients
