"""Join files of the same stage, about different images, into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fmtool import artifacts, row_files
from fmtool.artifacts import Artifact
from fmtool.errors import ArtifactError
from fmtool.stages.common import check_range, warn

# kind -> the stages whose options must agree: the newest of each that is in the history
MAKERS = {"attack": ("attack",), "masks": ("fit-masks", "attack")}
CHOICE = {"limit"}  # options that only choose images
UNSAID = {"perturb": 0.0}  # what files mean that were made before there was such an option
ROUNDING = {"batch_size", "compile", "device"}  # options that may change no more than rounding


def merge(files: Sequence[Artifact], *, output: str | None = None) -> Artifact:
    """`attack` or `masks` artifacts, made by the same model with the same options, as one: rows in the order given.

    Their `data` become one list, equal entries once, and `source` is renumbered. output: write the file ("-" for standard
    output) row by row; what is returned then reads from it. ArtifactError for files that differ in more than their images, or
    that share an image.
    """
    if not files:
        raise ArtifactError("expected at least one file to merge")
    first = files[0]
    if first.kind not in MAKERS:
        raise ArtifactError(
            f"{first}: expected files of kind {' or '.join(MAKERS)} to merge, got one of kind {first.kind}"
        )
    for other in files[1:]:
        _check_alike(other, first)
    _check_apart(files)
    data: list[dict[str, str]] = []
    sources = torch.cat([_renumbered(file, data) for file in files])
    shapes = {name: first.rows(name) for name in first.tensors}
    layout = {name: (rows.dtype, (len(sources), *rows.shape[1:])) for name, rows in shapes.items()}
    history = artifacts.stage("merge", {}, None, files)
    with row_files.making(output, first.kind, {**first.header, "data": data}, history, layout) as made:
        for name, (_, shape) in layout.items():
            if len(shape) == 1:
                made.put(name, sources if name == "source" else torch.cat([file[name] for file in files]))
                continue
            row = 0
            for rows in (file.rows(name) for file in files):
                for number in range(len(rows)):
                    made.put(name, rows[number], row)
                    row += 1
    return made.artifact


def _check_alike(other: Artifact, first: Artifact) -> None:
    """The same kind, model, classes, options and shapes; another rounding is worth a warning."""
    both = f"{other} and {first} can't be merged"
    if other.kind != first.kind:
        raise ArtifactError(f"{both}: a file of kind {other.kind} and one of kind {first.kind}")
    ours, theirs = (str(file.input_digest("model"))[:12] for file in (other, first))
    if other.input_digest("model") != first.input_digest("model"):
        raise ArtifactError(f"{both}: made with model {ours} and with model {theirs}")
    if other.header["class_names"] != first.header["class_names"]:
        raise ArtifactError(f"{both}: their class names differ")
    for made_by in MAKERS[first.kind]:
        _check_same(_options(other, made_by), _options(first, made_by), both, f" of {made_by}")
    _check_same(_fields(other), _fields(first), both)
    _check_same(_layout(other), _layout(first), both, " of the tensors")
    for made_by in MAKERS[first.kind]:
        one, two = _newest(other, made_by), _newest(first, made_by)
        rounding = sorted(name for name in ROUNDING if one["options"].get(name) != two["options"].get(name))
        if rounding or one["versions"] != two["versions"]:
            what = ", ".join([*rounding, *(["versions"] if one["versions"] != two["versions"] else [])])
            warn(f"{other} and {first} were made with other {what} of {made_by}: their rows are rounded otherwise")


def _check_same(one: Mapping[str, Any], two: Mapping[str, Any], both: str, where: str = "") -> None:
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            raise ArtifactError(f"{both}: {name}{where} is {one.get(name)} and {two.get(name)}")


def _newest(file: Artifact, command: str) -> dict[str, Any]:
    """The newest stage of this command that led to a file."""
    found: dict[str, Any] = next((stage for stage in reversed(file.history) if stage["command"] == command), {})
    return {"options": {}, "versions": {}, **found}


def _options(file: Artifact, command: str) -> dict[str, Any]:
    stage = _newest(file, command)
    options = {name: value for name, value in stage["options"].items() if name not in CHOICE | ROUNDING}
    return {**UNSAID, **options, "seed": stage.get("seed")}


def _fields(file: Artifact) -> dict[str, Any]:
    return {**UNSAID, **{name: value for name, value in file.header.items() if name != "data"}}


def _layout(file: Artifact) -> dict[str, str]:
    """Tensor -> dtype and shape of a row."""
    parts = {name: file.rows(name) for name in file.tensors}
    return {name: f"{rows.dtype} {list(rows.shape[1:])}" for name, rows in parts.items()}


def _check_apart(files: Sequence[Artifact]) -> None:
    """No image, known by key and index, is in two files or twice in one: later stages could not tell its rows apart."""
    owner: dict[tuple[int, int], Artifact] = {}
    for file in files:
        names = list(zip(file["key"].tolist(), file["index"].tolist(), strict=True))
        again = [name for name in names if name in owner]
        if again:
            raise ArtifactError(
                f"{file} and {owner[again[0]]} can't be merged: they share {len(again)} images, index {again[0][1]} the first"
            )
        owner.update(dict.fromkeys(names, file))
        if len(set(names)) != len(names):
            raise ArtifactError(f"{file}: holds an image twice (key and index are the same)")


def _renumbered(file: Artifact, data: list[dict[str, str]]) -> Tensor:
    """A file's `source` (n) for the list `data`, to which its own entries are added where they are new."""
    entries = file.header["data"]
    check_range(file["source"], len(entries), f"{file}: source")
    data.extend(entry for number, entry in enumerate(entries) if entry not in data and entry not in entries[:number])
    return torch.tensor([data.index(entry) for entry in entries], dtype=torch.int64)[file["source"]]
