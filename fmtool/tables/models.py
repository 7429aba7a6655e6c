"""The table of a model."""

from __future__ import annotations

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
