"""The table of a defence."""

from __future__ import annotations

from fmtool.attacks import title
from fmtool.summaries.headers import Header
from fmtool.tables import Table


def defense_table(header: Header) -> Table:
    """The matrix of Table 4: accuracy after the second pass and, in brackets, the authors' figure."""
    columns = {"data": "", **{("no mask" if name == "none" else name): "." for name in header["columns"]}}
    rows = [
        [title(name), *(f"{cell['accuracy']:.3f} ({cell['accuracy_right_before']:.3f})" for cell in cells)]
        for name, cells in zip(header["rows"], header["matrix"], strict=True)
    ]
    kind = "adaptive" if header["adaptive"] else "non-adaptive: the attacks knew nothing of the masks"
    note = (
        f"n = {header['n']}; accuracy, in brackets counting only images right when clean (the authors' figure); {kind}"
    )
    return Table("Accuracy after the second pass (as Table 4)", columns, rows, [note])
