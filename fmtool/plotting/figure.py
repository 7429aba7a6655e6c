"""Draw and save any figure of the registry. Masks and spectra have the zero frequency in the centre.

A figure's module, and with it matplotlib and torch, is loaded when the figure is drawn.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmtool.artifacts import output
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError, FmtoolError, printable, unknown, warn
from fmtool.plotting.registry import FIGURES, Files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")
DOTS = 200  # per inch, of a PNG
UNIT = {"masks", "images", "adversarial"}  # tensors with entries in [0, 1]


def draw(files: Files, count: int, figure: str | None = None, like: Files = ()) -> Figure:
    """The figure of this name in `FIGURES`, or the first that fits the files.

    count: how many images to show, spread over the classes, of those that all the files share, and that the files in `like`,
    which are not drawn, also hold. Images whose masks keep their class in all files are chosen, if there are any.
    """
    from fmtool.artifacts.rows import check_unit

    name = figure or _fitting(files)
    if name not in FIGURES:
        raise FmtoolError(unknown("--figure", name, FIGURES))
    kind = FIGURES[name]
    if not kind.fits(files):
        raise ArtifactError(f"--figure {name}: expected {kind.takes}, got {_listed(files)}")
    if like and not kind.images:
        several = ", ".join(name for name, one in FIGURES.items() if one.images)
        raise FmtoolError(f"--same-images-as goes with figures of single images ({several}), not with {name}")
    for file in files:
        for tensor in file.tensors.keys() & UNIT:
            check_unit(file.rows(tensor), f"{file}: {tensor}")
        lost = int((~file["preserved"]).sum()) if file.kind == "masks" and not kind.images else 0
        if lost:
            warn(f"{file}: {lost} of {len(file['preserved'])} masks lose their class, and count as all others do")
    module, _, function = kind.function.partition(":")
    draw_figure: Callable[..., Figure] = getattr(importlib.import_module(f"fmtool.plotting.{module}"), function)
    files, like = [_without_formulas(file) for file in files], [_without_formulas(file) for file in like]
    with _settings():
        return draw_figure(files, count, like) if kind.images else draw_figure(files)


def save(figure: Figure, target: str) -> None:
    """Write PNG, PDF or SVG by the target's suffix; the same figure gives the same bytes."""
    output.write_bytes(render(figure, check_suffix(target)[1:], DOTS), target)


def render(figure: Figure, form: str, dpi: int) -> bytes:
    """The picture's bytes, without a date in them; form: "png", "pdf" or "svg"; dpi: dots per inch of a PNG."""
    metadata: dict[str, Any] | None = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
    content = io.BytesIO()
    with _settings():
        figure.savefig(content, format=form, dpi=dpi, bbox_inches="tight", metadata=metadata)
    return content.getvalue()


def check_suffix(target: str, option: str = "--output") -> str:
    """The target's suffix in lower case; an error if it is not one of `SUFFIXES`."""
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise FmtoolError(f"{option} {target}: expected a name that ends in {', '.join(SUFFIXES)}")
    return suffix


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib's defaults and then ours, ignoring the user's matplotlibrc, so that a figure is the same for everyone."""
    import matplotlib

    from fmtool.plotting.style import SETTINGS, any_letters

    with matplotlib.rc_context(), any_letters():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def _without_formulas(file: Artifact) -> Artifact:
    """The file with the dollar signs in names escaped, as matplotlib would start a formula there, and with a name that can be
    drawn, which bytes that are not UTF-8 can't.
    """
    text, name = json.dumps(file.header), printable(file.name)
    if "$" not in text + name:
        return replace(file, name=name)
    return replace(file, header=json.loads(text.replace("$", r"\\$")), name=name.replace("$", r"\$"))


def _fitting(files: Files) -> str:
    for name, kind in FIGURES.items():
        if files and kind.fits(files):
            return name
    expected = "; ".join(dict.fromkeys(kind.takes for kind in FIGURES.values()))
    raise ArtifactError(f"can't draw {_listed(files)}: expected {expected}")


def _listed(files: Files) -> str:
    return ", ".join(f"{file} ({file.kind})" if file.name else f"{file}" for file in files) or "no file"
