"""One self-contained page of any set of artifacts: every table, the figures that fit them, and where they come from.

The page needs no other file and no network, reads on a phone and in print, and holds no clock: the same files give the same page.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError
from fmtool.plotting.figure import draw, render
from fmtool.tables.correlations import table1
from fmtool.tables.registry import joined, tables_of
from fmtool.tables.spectra import arrays, source, spectrum_table
from fmtool.tables.table import Table

DOTS_PER_INCH = 130
# kind -> heading, in the order of the pipeline, which is that of the page
SECTIONS = {
    "model": "Models",
    "attack": "Attacks",
    "masks": "Masks",
    "correlation": "Correlation",
    "class-masks": "Class masks",
    "defense": "Defence",
}
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: #1a1a1a; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid #1f4e79; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: #1f4e79; }
.wide { overflow-x: auto; } .wide:focus { outline: 2px solid #1f4e79; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .3rem 0; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #888; font-weight: 600; } .number { text-align: right; white-space: nowrap; }
.note, figcaption, .file { font-size: .82rem; color: #444; margin: .2rem 0; }
.file, code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
pre { font-size: .78rem; white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem; }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; } .wide { overflow: visible; }
  table { font-size: 7pt; } th, td { padding: .1rem .25rem; } h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """What is drawn of which files, and the words below it."""

    files: Sequence[Artifact]
    figure: str  # a name of `registry.FIGURES`
    caption: str


def build(files: Sequence[Artifact], count: int = 8) -> str:
    """The page, HTML. files: of any kinds, in the order in which they are to stand in their sections.

    count: how many images the grids show. ArtifactError when there is no file.
    """
    if not files:
        raise ArtifactError("expected at least one file for the report")
    by_kind = {kind: [file for file in files if file.kind == kind] for kind in SECTIONS}
    present = [kind for kind in SECTIONS if by_kind[kind]]
    parts = [
        "<h1>Frequencies of a classifier and of attacks on it</h1>",
        f'<p class="note">{len(files)} files, read by fmtool. Masks and spectra have the zero frequency in the centre.</p>',
        "<nav>"
        + "".join(f'<a href="#{kind}">{SECTIONS[kind]}</a>' for kind in present)
        + '<a href="#files">Files</a></nav>',
    ]
    for kind in present:
        parts.append(f'<section id="{kind}"><h2>{SECTIONS[kind]}</h2>')
        if kind == "correlation" and len(by_kind[kind]) > 1:
            parts += map(_table, _overview(by_kind[kind]))
        if kind == "masks":
            parts.append(_table(spectrum_table([source(one) for one in [*by_kind["masks"], *by_kind["attack"]]])))
        made = [(str(file), tables_of(file.kind, file.header, arrays(file))) for file in by_kind[kind]]
        parts += map(_table, joined(made))
        parts += [_figure(picture, count) for picture in PICTURES[kind](by_kind)]
        parts.append("</section>")
    parts += [
        '<section id="files"><h2>Files and what made them</h2>',
        _table(_file_table(files)),
        _stages(files),
        "</section>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>fmtool report</title>'
        f"<style>{STYLE}</style></head><body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


Kinds = dict[str, list[Artifact]]


def _pictures_of_attacks(files: Kinds) -> list[Picture]:
    return [Picture([file], "perturbation", f"What {file} adds to its images") for file in files["attack"]]


def _pictures_of_masks(files: Kinds) -> list[Picture]:
    """One of each: for as many files as there is an image of that they all hold, with the first one."""
    masks = files["masks"]
    made = [
        Picture(_together(masks), "masks", "Masks of the same images; each is of the image above it"),
        Picture(masks, "mean-mask", "Mean masks, and where their energy lies; bands are 95 % intervals over images"),
    ]
    for attack in files["attack"]:
        together = _together([attack, *(file for file in masks if _fitted(file, attack))])
        if len(together) > 1:
            made.append(Picture(together, "filtered", f"Images of {attack}, and what the masks leave of them"))
    if files["attack"]:
        everything = [*masks, *files["attack"]]
        made.append(Picture(everything, "radial", "Where the energy of masks and of perturbations lies (A.5)"))
    return made


def _pictures_of_correlations(files: Kinds) -> list[Picture]:
    with_classes = [file for file in files["correlation"] if file.header.get("curves", {}).get("class_subsets")]
    made = [Picture(with_classes, "classes", "Against the number of classes (Figure 4)")] if with_classes else []
    for file in files["correlation"]:
        made.append(Picture([file], "null", f"{file}: observed values and their permutation nulls"))
        if "cosine_pairs" in file.tensors:
            made.append(
                Picture(
                    [file], "cosine", f"{file}: cosine similarity of single pairs, and of masks of different images"
                )
            )
        if file.header.get("curves", {}).get("subsample"):
            made.append(Picture([file], "subsample", f"{file}: every statistic against the number of pairs"))
    return made


PICTURES: dict[str, Callable[[Kinds], list[Picture]]] = {
    "model": lambda files: [],
    "attack": _pictures_of_attacks,
    "masks": _pictures_of_masks,
    "correlation": _pictures_of_correlations,
    "class-masks": lambda files: [Picture([file], "class-masks", str(file)) for file in files["class-masks"]],
    "defense": lambda files: [Picture([file], "defense", str(file)) for file in files["defense"]],
}


def _fitted(masks: Artifact, attack: Artifact) -> bool:
    """Whether masks can be of an attack's images: adversarial ones of this attack, and of an adaptive one only if they say so."""
    if masks.header["for"] == "essential":
        return True
    inputs = [entry["digest"] for stage in masks.history for entry in stage["inputs"]]
    alike: bool = masks.header["attack"] == attack.header["attack"]
    return alike and (not attack.header.get("defense") or attack.digest in inputs)


def _together(files: Sequence[Artifact]) -> list[Artifact]:
    """The first file, and each further one that leaves an image that all of them hold: a grid shows images of every file."""
    found, shared = [files[0]], _names(files[0])
    for file in files[1:]:
        if left := shared & _names(file):
            found, shared = [*found, file], left
    return found


def _names(file: Artifact) -> set[tuple[int, int]]:
    return set(zip(file["key"].tolist(), file["index"].tolist(), strict=True))


def _overview(files: Sequence[Artifact]) -> list[Table]:
    """All correlations as one table, none where they share no statistic: each has its own below."""
    try:
        return [table1([file.header for file in files], [str(file) for file in files])]
    except ArtifactError:
        return []


def _figure(picture: Picture, count: int) -> str:
    """The picture, or why there is none, such as an attack that never succeeded: the rest of the page stands all the same."""
    words = html.escape(picture.caption)
    try:
        drawn = draw(picture.files, count, picture.figure)
    except ArtifactError as error:
        return f'<p class="note">{words}: no picture, {html.escape(str(error))}</p>'
    data = base64.b64encode(render(drawn, "png", DOTS_PER_INCH)).decode()
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def _table(table: Table) -> str:
    """Scrolls sideways by itself where the screen is narrower."""
    classes = [' class="number"' if form else "" for form in table.columns.values()]
    cells = zip(table.columns, classes, strict=True)
    head = "".join(f'<th scope="col"{kind}>{html.escape(name)}</th>' for name, kind in cells)
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, classes, strict=True))
        + "</tr>"
        for row in table.cells()
    )
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)
    title = html.escape(table.title)
    return (
        f'<h3>{title}</h3><div class="wide" tabindex="0" role="region" aria-label="{title}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{notes}"
    )


def _file_table(files: Iterable[Artifact]) -> Table:
    return Table(
        "Files", {"file": "", "kind": "", "digest": ""}, [[str(file), file.kind, file.digest] for file in files]
    )


def _stages(files: Iterable[Artifact]) -> str:
    """Every stage that led to one of the files, once, as a numbered list."""
    seen: dict[str, str] = {}
    for file in files:
        for entry in [*file.history[:-1], *({**last, "output": file.digest} for last in file.history[-1:])]:
            inputs = (
                ", ".join(f"{one.get('name') or one['kind']} {one['digest'][:12]}" for one in entry["inputs"])
                or "nothing"
            )
            options = " ".join(f"{name}={value}" for name, value in sorted(entry["options"].items()))
            versions = ", ".join(f"{name} {number}" for name, number in sorted(entry["versions"].items()))
            seed = f" seed={entry['seed']}" if "seed" in entry else ""
            made = str(entry.get("output", ""))[:12]
            text = f"{entry['command']} from {inputs}: {options}{seed}; by {versions}"
            seen[f"{made} {text}"] = f"<li><code>{html.escape(made)}</code> {html.escape(text)}</li>"
    return f'<h3>Stages, and the first digits of what they made</h3><ol class="note">{"".join(seen.values())}</ol>'
