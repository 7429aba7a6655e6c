"""One self-contained HTML page about any set of artifacts: their tables, the figures that fit them, and their histories.

The page needs no other file and no network, is readable on a phone and in print, and has no date: the same files give the same
page. Its markup is `report.html`, beside this module.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import SHORT, options_text, versions_text, with_outputs
from fmtool.artifacts.rows import image_names
from fmtool.errors import ArtifactError, FmtoolError, printable
from fmtool.masks.basis import basis_of
from fmtool.masks.registry import FOURIER, layer_of
from fmtool.models.registry import INPUT
from fmtool.plotting.figure import draw, render
from fmtool.plotting.grids import fitted_to
from fmtool.stages.options import GRID_IMAGES
from fmtool.tables.correlations import are_masks, table1
from fmtool.tables.registry import joined, tables_of
from fmtool.tables.spectra import arrays, source, spectrum_table
from fmtool.tables.table import Table

DOTS_PER_INCH = 130
# kind -> heading, in the order of the pipeline, which is that of the page
SECTIONS = {
    "model": "Models",
    "heatmap": "Heat maps",
    "attack": "Attacks",
    "masks": "Masks",
    "correlation": "Correlation",
    "class-masks": "Class masks",
    "defense": "Defence",
}

Kinds = dict[str, list[Artifact]]


@dataclass(frozen=True)
class Picture:
    """A figure to draw of some files, with its caption."""

    files: Sequence[Artifact]
    figure: str  # a name of `FIGURES`
    caption: str


@dataclass(frozen=True)
class Drawn:
    """A picture on the page: PNG in base64, or the reason why it can't be drawn."""

    caption: str
    png: str
    reason: str


@dataclass(frozen=True)
class Section:
    """The page's section on the files of one kind."""

    kind: str
    heading: str
    tables: Sequence[Table]
    pictures: Sequence[Drawn]


def build(files: Sequence[Artifact], count: int = GRID_IMAGES) -> str:
    """The page, HTML. files: of any kinds, in the order in which their sections show them.

    count: number of images that grids show. ArtifactError if there is no file.
    """
    if not files:
        raise ArtifactError("expected at least one file for the report")
    by_kind = {kind: [file for file in files if file.kind == kind] for kind in SECTIONS}
    page: str = _template().render(
        count=len(files),
        sections=[_section(kind, by_kind, count) for kind in SECTIONS if by_kind[kind]],
        file_table=_file_table(files),
        stages=_stages(files),
    )
    return page


def _template() -> Any:
    """`report.html`; all values are escaped, and unprintable characters are shown as codes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("fmtool", "stages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    return environment.get_template("report.html")


def _section(kind: str, by_kind: Kinds, count: int) -> Section:
    files = by_kind[kind]
    tables: list[Table] = []
    if kind == "correlation" and len(files) > 1:
        tables += _overview(files)
    if kind == "masks":
        with_frequencies = [source(file) for file in [*files, *by_kind["attack"]] if _has_frequencies(file)]
        tables += [spectrum_table(with_frequencies)] if with_frequencies else []
    tables += joined([(str(file), tables_of(kind, file.header, arrays(file))) for file in files])
    return Section(kind, SECTIONS[kind], tables, [_draw(picture, count) for picture in PICTURES[kind](by_kind)])


def _pictures_of_attacks(files: Kinds) -> list[Picture]:
    return [Picture([file], "perturbation", f"What {file} adds to its images") for file in files["attack"]]


def _pictures_of_heatmaps(files: Kinds) -> list[Picture]:
    """One of each, and where there are files of the same model and of one attack to set beside the first, all together."""
    pictures = [
        Picture([file], "heatmap", f"{file}: errors under noise of each frequency") for file in files["heatmap"]
    ]
    first = files["heatmap"][0]
    alike = [
        file
        for file in [*files["masks"], *files["attack"]]
        if file.input_digest("model") == first.input_digest("model")
        and file.header.get("basis", FOURIER) == FOURIER
        and layer_of(file.header) == INPUT
    ]
    named: dict[str, list[Artifact]] = {"essential": [], "adversarial": [], "attack": []}
    for file in alike:
        named[file.header["for"] if file.kind == "masks" else file.kind].append(file)
    caption = "Heat map, masks and perturbations of the same model"
    for essential, masks, attack in product(*named.values()):
        if fitted_to(masks, attack):
            return [*pictures, Picture([first, essential, masks, attack], "compare", caption)]
    return pictures


def _pictures_of_masks(files: Kinds) -> list[Picture]:
    """One of each, of as many files as share an image with the first one."""
    masks = files["masks"]
    pictures = [Picture(_together(masks), "masks", "Masks of the same images; each is of the image above it")]
    with_frequencies = [file for file in masks if _has_frequencies(file)]
    by_layer: dict[str, list[Artifact]] = {layer_of(file.header): [] for file in with_frequencies}
    for file in with_frequencies:
        by_layer[layer_of(file.header)].append(file)
    for layer, some in by_layer.items():
        where = "" if layer == INPUT else f" at {layer}"
        caption = f"Mean masks{where}, and where their energy lies; bands are 95 % intervals over images"
        pictures.append(Picture(some, "mean-mask", caption))
    of_images = [file for file in masks if layer_of(file.header) == INPUT]
    for attack in files["attack"]:
        together = _together([attack, *(file for file in of_images if fitted_to(file, attack))])
        if len(together) > 1:
            pictures.append(Picture(together, "filtered", f"Images of {attack}, and what the masks leave of them"))
    if files["attack"]:
        everything = [*by_layer.get(INPUT, []), *files["attack"]]
        pictures.append(Picture(everything, "radial", "Where the energy of masks and of perturbations lies (A.5)"))
    return pictures


def _pictures_of_correlations(files: Kinds) -> list[Picture]:
    with_classes = [file for file in files["correlation"] if file.header.get("curves", {}).get("class_subsets")]
    pictures = [Picture(with_classes, "classes", "Against the number of classes (Figure 4)")] if with_classes else []
    for file in files["correlation"]:
        pictures.append(Picture([file], "null", f"{file}: observed values and their permutation nulls"))
        if "cosine_pairs" in file.tensors:
            others = "masks of different images" if are_masks(file.header["sides"]) else "rows of different pairs"
            pictures.append(Picture([file], "cosine", f"{file}: cosine similarity of single pairs, and of {others}"))
        if file.header.get("curves", {}).get("subsample"):
            pictures.append(Picture([file], "subsample", f"{file}: every statistic against the number of pairs"))
        if file.header.get("curves", {}).get("trim"):
            pictures.append(Picture([file], "trim", f"{file}: every statistic against the threshold of entries"))
    return pictures


PICTURES: dict[str, Callable[[Kinds], list[Picture]]] = {
    "model": lambda files: [],
    "heatmap": _pictures_of_heatmaps,
    "attack": _pictures_of_attacks,
    "masks": _pictures_of_masks,
    "correlation": _pictures_of_correlations,
    "class-masks": lambda files: [Picture([file], "class-masks", str(file)) for file in files["class-masks"]],
    "defense": lambda files: [Picture([file], "defense", str(file)) for file in files["defense"]],
}


def _has_frequencies(file: Artifact) -> bool:
    """Whether its entries have a radial frequency, as those of wavelets and pixels don't."""
    return file.kind != "masks" or basis_of(file.header, str(file)).frequencies is not None


def _together(files: Sequence[Artifact]) -> list[Artifact]:
    """The first file, and each further one that keeps an image shared by all: a grid shows images of every file."""
    together, shared = [files[0]], _names(files[0])
    for file in files[1:]:
        if left := shared & _names(file):
            together, shared = [*together, file], left
    return together


def _names(file: Artifact) -> set[tuple[int, int]]:
    return set(image_names(file["key"], file["index"]))


def _overview(files: Sequence[Artifact]) -> list[Table]:
    """All correlations in one table, or none if they share no statistic; each has its own table below."""
    try:
        return [table1([file.header for file in files], [str(file) for file in files])]
    except ArtifactError:
        return []


def _draw(picture: Picture, count: int) -> Drawn:
    """Draw a picture; if that is impossible, as for an attack that never succeeded, the page shows the reason."""
    try:
        png = render(draw(picture.files, count, picture.figure), "png", DOTS_PER_INCH)
    except FmtoolError as error:
        return Drawn(picture.caption, "", str(error))
    return Drawn(picture.caption, base64.b64encode(png).decode(), "")


def _file_table(files: Iterable[Artifact]) -> Table:
    return Table(
        "Files", {"file": "", "kind": "", "digest": ""}, [[str(file), file.kind, file.digest] for file in files]
    )


def _stages(files: Iterable[Artifact]) -> list[tuple[str, str]]:
    """Every stage that led to one of the files, once: the first digits of its output's digest, and what it did."""
    stages: dict[tuple[str, str], None] = {}  # a set that keeps the order
    for file in files:
        for entry in with_outputs(file.history, file.digest):
            names = [f"{one.get('name') or one['kind']} {one['digest'][:SHORT]}" for one in entry["inputs"]]
            versions = versions_text(entry)
            text = f"{entry['command']} from {', '.join(names) or 'nothing'}: {options_text(entry)}; by {versions}"
            stages[str(entry.get("output", ""))[:SHORT], text] = None
    return list(stages)
