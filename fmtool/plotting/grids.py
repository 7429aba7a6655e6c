"""Grids of masks and of filtered images (paper, Figures 1, 3, 5, 6, 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import other_attack
from fmtool.artifacts.rows import join
from fmtool.attacks.registry import masks_title, title
from fmtool.datasets.rows import spread
from fmtool.errors import ArtifactError, warn
from fmtool.masks.basis import Basis, basis_of, check_shape
from fmtool.plotting.style import WIDE, mask_name, number_axes, succeeded, wrapped
from fmtool.tables.attacks import attack_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELLS = 0.62, 1.25  # inches, the smallest and the largest size of a picture
LEFT, BAR = 0.9, 0.8  # inches for the names of the rows and for a colour bar
NAMED = ("labels", "key", "index")  # a file's tensors that identify its images


def mask_grid(files: Sequence[Artifact], count: int, like: Sequence[Artifact] = ()) -> Figure:
    """One row per file and one column per image that all files hold, titled with its label (Figures 3 and 5)."""
    places = chosen(files, count, like)
    figure, axes, cell = _grid(len(files), len(places[0]), _bar(files))
    for row, (file, rows) in enumerate(zip(files, places, strict=True)):
        basis = check_shape(file.rows("masks"), file.header, file)
        for column, mask in enumerate(basis.picture(file.rows("masks")[rows])):
            _show_mask(axes[row][column], mask, basis, first=row == len(files) - 1 and column == 0)
        _name_row(axes[row][0], _row_name(file))
    _name_columns(axes[0], files[0], places[0], cell)
    _legend(figure, files)
    return figure


def filtered_images(files: Sequence[Artifact], count: int, like: Sequence[Artifact] = ()) -> Figure:
    """Rows: images, adversarial images, then for each mask file the filtered images that it was fitted to (Figure 1)."""
    attack, masks = (
        next(file for file in files if file.kind == "attack"),
        [file for file in files if file.kind == "masks"],
    )
    places = chosen([attack, *masks], count, like)
    pictures = [
        ("image", attack.rows("images")[places[0]]),
        (attack_name(attack.header).replace(" on ", "\non "), attack.rows("adversarial")[places[0]]),
    ]
    for file, rows in zip(masks, places[1:], strict=True):
        if file.input_digest("model") != attack.input_digest("model"):
            raise ArtifactError(f"{file} and {attack} were made with different models")
        if not fitted_to(file, attack):
            raise ArtifactError(
                f"{file}: masks of {title(str(file.header['attack']))}'s images, which {attack} doesn't hold"
            )
        source = pictures[0 if file.header["for"] == "essential" else 1][1]
        own, basis = file.rows("masks")[rows], check_shape(file.rows("masks"), file.header, file)
        if own.shape[1:] != (source.shape[1], *basis.shape) or source.shape[2:] != (basis.h, basis.w):
            raise ArtifactError(f"{file}: masks do not fit the shape of the images of {attack}")
        pictures.append((f"filtered by\n{_row_name(file)}", basis.filter(source, own)))
    figure, axes, cell = _grid(len(pictures), len(places[0]))
    for row, (name, images) in enumerate(pictures):
        for column, image in enumerate(images):
            _show_image(axes[row][column], image)
        _name_row(axes[row][0], name)
    _name_columns(axes[0], attack, places[0], cell)
    return figure


def fitted_to(masks: Artifact, attack: Artifact) -> bool:
    """Whether masks can be of an attack's images: adversarial masks of the same attack, and, if adaptive, of this very file."""
    if masks.input_digest("model") != attack.input_digest("model"):
        return False
    if masks.header["for"] == "essential":
        return True
    inputs = [entry["digest"] for stage in masks.history for entry in stage["inputs"]]
    alike = masks.header["attack"] == attack.header["attack"] and not other_attack(masks.history, attack.history)
    return alike and (not attack.header.get("defense") or attack.digest in inputs)


def class_mask_grid(files: Sequence[Artifact]) -> Figure:
    """One picture per class, with its name (Figures 6 and 7)."""
    (file,) = files
    count = len(file["classes"])
    columns = min(5, count)
    figure, axes, width = _grid(-(-count // columns), columns, _bar(files))
    cells = [cell for row in axes for cell in row]
    basis = check_shape(file["masks"], file.header, file)
    masks = basis.picture(file["masks"])
    for place, (cell, number, mask) in enumerate(zip(cells, file["classes"].tolist(), masks, strict=False)):
        _show_mask(cell, mask, basis, first=place == (-(-count // columns) - 1) * columns)
        cell.set_title(wrapped(_class_name(file, number), width), fontsize=7)
    for cell in cells[count:]:
        cell.axis("off")
    _name_row(axes[0][0], f"class masks,\n{masks_title(file.header)}")
    _legend(figure, files)
    return figure


def chosen(files: Sequence[Artifact], count: int, like: Sequence[Artifact] = ()) -> list[Tensor]:
    """Row numbers in each file of the same `count` images, spread over the classes, that all files and those of `like` hold.

    Only images that an attack turned, and whose masks keep their class in all mask files, because a mask that fails shows no
    sufficient frequencies; if there are none of the latter, all images, with a warning. The choice depends only on the set of
    these images, not on the files' order: separate figures show the same ones.
    """
    for file in [*files, *like]:
        missing = [name for name in NAMED if name not in file.tensors]
        if missing:
            raise ArtifactError(f"{file}: expected a file that identifies its images, got one of kind {file.kind}")
        if len({len(file[name]) for name in NAMED}) > 1:
            raise ArtifactError(f"{file}: its rows do not match")
    every = [*files, *like]
    places = join(every) if len(every) > 1 else [torch.arange(len(files[0]["labels"]))]
    first, places = files[0], _that_keep_their_class(every, _attacked(every, places))
    names = zip(first["index"][places[0]].tolist(), first["key"][places[0]].tolist(), strict=True)
    order = torch.tensor([place for place, _ in sorted(enumerate(names), key=lambda one: one[1])], dtype=torch.int64)
    labels = first["labels"][places[0]][order]
    picked = spread(labels, count)
    picked = order[picked[torch.argsort(labels[picked], stable=True)]]
    return [rows[picked] for rows in places[: len(files)]]


def _attacked(files: Sequence[Artifact], places: list[Tensor]) -> list[Tensor]:
    """The places of the images on which every attack among the files succeeded; an ArtifactError if there is none."""
    turned = torch.ones(len(places[0]), dtype=torch.bool)
    for file, rows in zip(files, places, strict=True):
        if file.kind == "attack":
            turned &= succeeded(file)[rows]
    if not bool(turned.any()):
        raise ArtifactError(
            "none of the images that all files hold was attacked successfully by every attack among them: nothing to draw"
        )
    return [rows[turned] for rows in places]


def _that_keep_their_class(files: Sequence[Artifact], places: list[Tensor]) -> list[Tensor]:
    """The places of the images whose masks are preserved in every mask file; if there are none, all, with a warning."""
    preserved = torch.ones(len(places[0]), dtype=torch.bool)
    masks = [file for file in files if file.kind == "masks"]
    for file, rows in zip(files, places, strict=True):
        preserved &= file["preserved"][rows] if file.kind == "masks" else True
    if bool(preserved.any()):
        return [rows[preserved] for rows in places]
    warn(f"no image has masks that keep its class in {', '.join(map(str, masks))}: masks that fail are shown")
    return places


def _grid(rows: int, columns: int, bar: float = 0.0) -> tuple[Figure, list[list[Axes]], float]:
    """The axes of pictures and the width of one; bar: inches for a colour bar."""
    from matplotlib.figure import Figure

    cell = min(max((WIDE - LEFT - bar) / columns, CELLS[0]), CELLS[1])
    figure = Figure(figsize=(LEFT + cell * columns + bar, (cell + 0.12) * rows + 0.5), layout="compressed")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes], cell


def _show_mask(axes: Axes, mask: Tensor, basis: Basis, *, first: bool) -> None:
    """A mask (c, h, w) as `Basis.picture` has it: three channels as red, green and blue, else their mean in grey."""
    picture = mask.permute(1, 2, 0) if len(mask) == 3 else mask.mean(dim=0)
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, extent=basis.extent, interpolation="nearest")
    ticks = basis.ticks if first else ()
    number_axes(axes, ticks, basis.extent, x=first, y=first)
    axes.tick_params(labelsize=7)


def _show_image(axes: Axes, image: Tensor) -> None:
    picture = image.clamp(0, 1).permute(1, 2, 0) if len(image) == 3 else image.clamp(0, 1).mean(dim=0)
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _row_name(file: Artifact) -> str:
    return mask_name(file).replace(" (", "\n(").replace(", ", ",\n")


def _name_row(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, fontsize=7)


def _name_columns(row: Sequence[Axes], file: Artifact, rows: Tensor, width: float) -> None:
    for axes, label in zip(row, file["labels"][rows].tolist(), strict=True):
        axes.set_title(wrapped(_class_name(file, label), width), fontsize=7)


def _class_name(file: Artifact, number: int) -> str:
    names = file.header["class_names"]
    return str(names[number] if 0 <= number < len(names) else number)


def _bar(files: Sequence[Artifact]) -> float:
    """Inches for the colour bar of masks; three channels need none."""
    return 0.0 if all(map(_coloured, files)) else BAR


def _coloured(file: Artifact) -> bool:
    return file.rows("masks").shape[1] == 3


def _legend(figure: Figure, files: Sequence[Artifact]) -> None:
    """Label the axes, and explain the colours."""
    text = " or ".join(dict.fromkeys(basis_of(file.header, file).axes for file in files))
    if any(map(_coloured, files)):
        text += "; each of three channels' mask in its own colour, black 0 to full 1"
    if _bar(files):
        figure.colorbar(figure.axes[0].images[0], ax=figure.axes, shrink=0.8, label="mask")
    figure.supxlabel(text, fontsize=7)
