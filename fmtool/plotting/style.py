"""What all figures share: colours that colour-blind readers can distinguish, sizes for print, and names of files."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fmtool.attacks.registry import OK, masks_title, title
from fmtool.errors import ArtifactError
from fmtool.masks.registry import mask_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from fmtool.artifacts.format import Artifact

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, 2008
INK, GREY = "#000000", "#777777"
WIDE = 6.75  # inches, a page's text
DOLLAR = "\ue000"  # stands for an escaped dollar sign, from the range for private use
LETTER = 0.058  # inches, the width of a letter of 7 points
SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "fmtool",  # reproducible names for the parts of a picture
    "pdf.fonttype": 42,  # text stays editable, as journals require
}


@contextmanager
def any_letters() -> Iterator[None]:
    """Ignore warnings about characters that the font lacks and shows as boxes, since names are the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield


def number_axes(
    axes: Axes, ticks: Sequence[float], extent: tuple[float, float, float, float] | None, *, x: bool, y: bool
) -> None:
    """Ticks on a picture of this extent (left, right, bottom, top), none beyond it; x, y: whether they have numbers."""
    left, right, bottom, top = extent or (-np.inf, np.inf, np.inf, -np.inf)
    across, down = ([tick for tick in ticks if low <= tick <= high] for low, high in ((left, right), (top, bottom)))
    axes.set_xticks(across, [f"{tick:g}" if x else "" for tick in across])
    axes.set_yticks(down, [f"{tick:g}" if y else "" for tick in down])


def radial_axis(axes: Axes, centres: Sequence[np.ndarray[Any, Any]]) -> None:
    """Radial frequency, to the corner of the spectrum or the last bin's centre, which small images have beyond it."""
    axes.set_xlabel("radial frequency (cycles per pixel)")
    axes.set_xlim(-0.01, max(0.72, *(float(one[-1]) + 0.01 for one in centres)))


def wrapped(name: str, inches: float, lines: int = 2) -> str:
    """A name in at most so many lines of this width in small print (7 points), shortened if need be."""
    letters = max(int(inches / LETTER), 2)
    # an escaped dollar sign is one letter, and is not cut in two
    whole = textwrap.wrap(name.replace(r"\$", DOLLAR), letters)
    if len(whole) > lines:
        whole = [*whole[: lines - 1], whole[lines - 1][: letters - 1] + "…"]
    return "\n".join(whole).replace(DOLLAR, r"\$")


def mask_name(file: Artifact) -> str:
    """A description of a file's masks."""
    if file.kind == "class-masks":
        return f"class masks, {masks_title(file.header)}"
    name, attack = str(file.header["for"]), file.header["attack"]
    name = f"{name} ({title(str(attack))})" if name == "adversarial" and attack else name
    return name + mask_suffix(file.header)


def succeeded(attack: Artifact) -> Tensor:
    """(n) bool tensor: where the attack succeeded; an ArtifactError if it never did."""
    ok = attack["status"] == OK
    if not bool(ok.any()):
        raise ArtifactError(f"{attack}: no attack succeeded, so there is no perturbation to draw")
    return ok


def distinct(names: Sequence[str], files: Sequence[Artifact]) -> list[str]:
    """Names, made distinct by appending the file's name to duplicates, and the position where that is empty or the same."""
    longer = []
    for number, (name, file) in enumerate(zip(names, files, strict=True), start=1):
        stem = file.name.rpartition("/")[2].removesuffix(".safetensors") or str(number)
        longer.append(f"{name}, {stem}" if list(names).count(name) > 1 else name)
    return [f"{name}, {number}" if longer.count(name) > 1 else name for number, name in enumerate(longer, start=1)]


def as_number(value: Any) -> float:
    """A number of a header, NaN for None."""
    return math.nan if value is None else float(value)


def plain_axes(axes: Axes) -> None:
    """Remove the top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)
