"""The figures: what each is drawn from and what it shows. Reading this table needs neither torch nor matplotlib.

To add a figure, write `fmtool/plotting/<module>.py` with a function that takes the files and returns a matplotlib figure, and
add one entry to `FIGURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fmtool.artifacts.format import Artifact
from fmtool.masks.registry import layer_of
from fmtool.models.registry import INPUT

Files = Sequence[Artifact]


@dataclass(frozen=True)
class FigureKind:
    """A figure: the files that it takes, as text and as a test, its function as "module:function", and what it shows.

    images: whether it shows single images, and so takes their number and files that limit them (`--same-images-as`).
    """

    takes: str
    fits: Callable[[Files], bool]
    function: str
    text: str
    images: bool = False


def _kinds(files: Files) -> list[str]:
    return [file.kind for file in files]


def _only(files: Files, *kinds: str) -> bool:
    return {file.kind for file in files} <= set(kinds)


def _at_one_place(files: Files) -> bool:
    """Whether all spectra are of images, or all of one layer: only then have they the same frequencies."""
    return len({layer_of(file.header) for file in files}) == 1


def _of_images(files: Files) -> bool:
    """Whether all masks are of images, not of a layer's output."""
    return all(layer_of(file.header) == INPUT for file in files)


def _curve(files: Files, name: str) -> bool:
    return _only(files, "correlation") and all(file.header.get("curves", {}).get(name) for file in files)


# Without a name, the first figure that fits the files is drawn.
FIGURES: dict[str, FigureKind] = {
    "masks": FigureKind(
        "masks files",
        lambda files: _only(files, "masks"),
        "grids:mask_grid",
        "masks that keep their class, of single images (Figures 3, 5)",
        images=True,
    ),
    "filtered": FigureKind(
        "one attack file and masks files of images, not of a layer",
        lambda files: (
            sorted(_kinds(files)) == ["attack"] + ["masks"] * (len(files) - 1) != ["attack"] and _of_images(files)
        ),
        "grids:filtered_images",
        "images before and after filtering by masks that keep their class (Figure 1)",
        images=True,
    ),
    "class-masks": FigureKind(
        "one class-masks file",
        lambda files: _kinds(files) == ["class-masks"],
        "grids:class_mask_grid",
        "one mask for each class (Figures 6, 7)",
    ),
    "mean-mask": FigureKind(
        "masks or class-masks files, all of images or of one layer",
        lambda files: _only(files, "masks", "class-masks") and _at_one_place(files),
        "spectra:mean_masks",
        "the mean mask, and its energy against frequency",
    ),
    "perturbation": FigureKind(
        "one attack file",
        lambda files: _kinds(files) == ["attack"],
        "spectra:perturbation",
        "the perturbations' mean amplitude spectrum, and their energy against frequency",
    ),
    "radial": FigureKind(
        "masks and attack files, all of images or of one layer",
        lambda files: _only(files, "masks", "attack") and _at_one_place(files),
        "spectra:radial_profiles",
        "energy of masks and perturbations against frequency, with each mean radial frequency",
    ),
    "classes": FigureKind(
        "correlation files made with --class-subsets",
        lambda files: _curve(files, "class_subsets"),
        "curves:class_curves",
        "IdCor and p against the number of classes (Figure 4)",
    ),
    "subsample": FigureKind(
        "one correlation file made with --subsample",
        lambda files: len(files) == 1 and _curve(files, "subsample"),
        "curves:subsample_curves",
        "statistics, nulls and adjusted values against n",
    ),
    "trim": FigureKind(
        "one correlation file made with several --trim thresholds",
        lambda files: len(files) == 1 and _curve(files, "trim"),
        "trim:trim_curves",
        "statistics, nulls and adjusted values against the threshold of entries",
    ),
    "null": FigureKind(
        "one correlation file",
        lambda files: _kinds(files) == ["correlation"],
        "statistics:null_distributions",
        "each statistic beside its permutation nulls",
    ),
    "cosine": FigureKind(
        "one correlation file with the cosine",
        lambda files: _kinds(files) == ["correlation"] and "cosine_pairs" in files[0].tensors,
        "statistics:cosine_histogram",
        "the cosines of pairs beside those of masks of different images",
    ),
    "heatmap": FigureKind(
        "one heatmap file",
        lambda files: _kinds(files) == ["heatmap"],
        "heatmaps:heatmap",
        "errors under noise of each frequency, and accuracy on filtered images",
    ),
    "compare": FigureKind(
        "one heatmap file, one attack file and two masks files of images, all of the same model",
        lambda files: sorted(_kinds(files)) == ["attack", "heatmap", "masks", "masks"] and _of_images(files),
        "heatmaps:compare",
        "heat map, mean masks and mean perturbation side by side, and their radial profiles",
    ),
    "defense": FigureKind(
        "one defense file",
        lambda files: _kinds(files) == ["defense"],
        "statistics:defense_matrix",
        "accuracies after the second pass (Table 4)",
    ),
}
