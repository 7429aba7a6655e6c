"""Figures of masks and filtered images (paper, Figures 1, 3, 5, 6, 7). Masks are drawn with the zero frequency in the centre."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from torch import Tensor

from fmtool import spectrum, targets
from fmtool.artifacts import Artifact
from fmtool.attacks import title
from fmtool.datasets import spread
from fmtool.errors import ArtifactError, FmtoolError
from fmtool.stages.common import join

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 1.25  # inches a picture
LEFT = 1.2  # inches for the names of the rows
SUFFIXES = (".png", ".pdf", ".svg")


def draw(files: Sequence[Artifact], count: int) -> Figure:
    """The figure that fits the kinds: mask files alone, mask files beside one attack file, or one class-masks file.

    count: how many images, spread over the classes, that all the files share.
    """
    kinds = [file.kind for file in files]
    if set(kinds) == {"masks"}:
        return mask_grid(files, count)
    if kinds.count("attack") == 1 and kinds.count("masks") == len(kinds) - 1 > 0:
        return filtered_images(files[kinds.index("attack")], [file for file in files if file.kind == "masks"], count)
    if kinds == ["class-masks"]:
        return class_mask_grid(files[0])
    raise ArtifactError(
        f"can't draw {', '.join(kinds)} together: expected masks files, one attack and masks files, or one class-masks file"
    )


def mask_grid(files: Sequence[Artifact], count: int) -> Figure:
    """A row a file, a column an image that all files hold, named by its label (Figures 3 and 5)."""
    places = _chosen(files, count)
    figure, axes = _grid(len(files), len(places[0]))
    for row, (file, rows) in enumerate(zip(files, places, strict=True)):
        width = int(file.header["image_size"][1])
        for column, mask in enumerate(spectrum.shifted(file["masks"][rows], width)):
            _show_mask(axes[row][column], mask, first=row == len(files) - 1 and column == 0)
        _name_row(axes[row][0], _mask_name(file))
    _name_columns(axes[0], files[0], places[0])
    _legend(figure, int(files[0]["masks"].shape[1]))
    return figure


def filtered_images(attack: Artifact, masks: Sequence[Artifact], count: int) -> Figure:
    """Rows: images, adversarial images, then for each mask file what it leaves of the images it was fitted to (Figure 1)."""
    places = _chosen([attack, *masks], count)
    pictures = [
        ("image", attack["images"][places[0]]),
        (f"{title(attack.header['attack'])}", attack["adversarial"][places[0]]),
    ]
    for file, rows in zip(masks, places[1:], strict=True):
        source = attack["images" if file.header["for"] == "essential" else "adversarial"][places[0]]
        if file["masks"].shape[1:3] != source.shape[1:3]:
            raise ArtifactError(f"{file}: masks of another shape than the images of {attack}")
        pictures.append((f"filtered by\n{_mask_name(file)}", spectrum.filter_images(source, file["masks"][rows])))
    figure, axes = _grid(len(pictures), len(places[0]))
    for row, (name, images) in enumerate(pictures):
        for column, image in enumerate(images):
            _show_image(axes[row][column], image)
        _name_row(axes[row][0], name)
    _name_columns(axes[0], attack, places[0])
    return figure


def class_mask_grid(file: Artifact) -> Figure:
    """A picture a class, named (Figures 6 and 7)."""
    count = len(file["classes"])
    columns = min(5, count)
    figure, axes = _grid(-(-count // columns), columns)
    cells = [cell for row in axes for cell in row]
    masks = spectrum.shifted(file["masks"], int(file.header["image_size"][1]))
    for place, (cell, number, mask) in enumerate(zip(cells, file["classes"].tolist(), masks, strict=False)):
        _show_mask(cell, mask, first=place == (-(-count // columns) - 1) * columns)
        cell.set_title(file.header["class_names"][number], fontsize=8)
    for cell in cells[count:]:
        cell.axis("off")
    name = f"robust against {title(file.header['attack'])}" if file.header["robust"] else "plain"
    _name_row(axes[0][0], f"class masks,\n{name}")
    _legend(figure, int(file["masks"].shape[1]))
    return figure


def save(figure: Figure, target: str) -> None:
    """Write PNG, PDF or SVG by the target's suffix; the same figure gives the same bytes."""
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise FmtoolError(f"--output {target}: expected a name that ends in {', '.join(SUFFIXES)}")
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fmtool"}):
        figure.savefig(content, format=suffix[1:], dpi=200, bbox_inches="tight", metadata=metadata)
    targets.write_bytes(content.getvalue(), target)


def _chosen(files: Sequence[Artifact], count: int) -> list[Tensor]:
    """Rows of each file for the same `count` images, spread over the classes."""
    for file in files:
        if len({len(file[name]) for name in ("labels", "key", "index")}) > 1:
            raise ArtifactError(f"{file}: its rows do not match")
    places = join(files) if len(files) > 1 else [torch.arange(len(files[0]["labels"]))]
    picked = spread(files[0]["labels"][places[0]], count)
    order = torch.argsort(files[0]["labels"][places[0]][picked], stable=True)
    return [rows[picked[order]] for rows in places]


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(LEFT + CELL * columns, CELL * rows + 0.5), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def _show_mask(axes: Axes, mask: Tensor, *, first: bool) -> None:
    """A mask (c, h, w), zero frequency in the centre: three channels as red, green and blue, else their mean in grey."""
    picture = mask.permute(1, 2, 0) if len(mask) == 3 else mask.mean(dim=0)
    # half a bin beyond the outermost frequencies, in cycles per pixel, so that frequency 0 lies in the middle of its bin
    h, w = mask.shape[-2:]
    y, x = (-(h // 2) - 0.5) / h, (-(w // 2) - 0.5) / w
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, y + 1, y), interpolation="nearest")
    axes.set_xticks([-0.4, 0, 0.4] if first else [])
    axes.set_yticks([-0.4, 0, 0.4] if first else [])
    axes.tick_params(labelsize=6)


def _show_image(axes: Axes, image: Tensor) -> None:
    picture = image.clamp(0, 1).permute(1, 2, 0) if len(image) == 3 else image.clamp(0, 1).mean(dim=0)
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _mask_name(file: Artifact) -> str:
    name: str = file.header["for"]
    return f"{name}\n({title(file.header['attack'])})" if name == "adversarial" and file.header["attack"] else name


def _name_row(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, fontsize=8)


def _name_columns(row: Sequence[Axes], file: Artifact, rows: Tensor) -> None:
    for axes, label in zip(row, file["labels"][rows].tolist(), strict=True):
        names = file.header["class_names"]
        axes.set_title(names[label] if 0 <= label < len(names) else str(label), fontsize=8)


def _legend(figure: Figure, channels: int) -> None:
    """Axes' unit, and what a colour means."""
    if channels == 3:
        text = "frequency in cycles per pixel; each channel's mask in its own colour, black 0 to full 1"
    else:
        figure.colorbar(figure.axes[0].images[0], ax=figure.axes, shrink=0.8, label="mask")
        text = "frequency in cycles per pixel"
    figure.supxlabel(text, fontsize=7)
