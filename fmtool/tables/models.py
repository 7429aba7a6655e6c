"""The table of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmtool.errors import ArtifactError
from fmtool.models.registry import shown_layers
from fmtool.tables.headers import Header
from fmtool.tables.table import Table


def model_table(header: Header) -> Table:
    """What a model is."""
    accuracy = header["accuracy"]
    row = [
        header["architecture"],
        "x".join(map(str, header["input_shape"])),
        len(header["class_names"]),
        bool(header["mean"]),
        None if accuracy is None else 100 * accuracy,
    ]
    columns = {"architecture": "", "input": "", "classes": "d", "normalises": "", "test accuracy %": ".2f"}
    return Table("Model", columns, [row])


def layers_table(header: Header, name: str, *, every: bool) -> Table:
    """A model's layers with the shapes of their outputs: every one, or of those that can be masked as many as make a short table.

    name: the file's. ArtifactError for a file of version 0.1, which doesn't list them.
    """
    layers: list[Mapping[str, Any]] | None = header.get("layers")
    if layers is None:
        raise ArtifactError(f"{name}: doesn't list its layers, as it was made by an older fmtool; make it again")
    can = [one["name"] for one in layers if one["cut"]]
    names = {one["name"] for one in layers} if every else set(shown_layers(can))
    rows = [
        [one["name"], one["type"], "x".join(map(str, one["shape"])), one["cut"]]
        for one in layers
        if one["name"] in names
    ]
    columns = {"layer": "", "type": "", "output": "", "fit-masks --layer": ""}
    left_out = f"{len(layers)} layers, {len(can)} of which --layer takes"
    return Table("Layers", columns, rows, [left_out if every else f"{left_out}; inspect --layers shows all."])
