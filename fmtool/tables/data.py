"""The table of images and labels that --data can name."""

from __future__ import annotations

from fmtool.artifacts.progress import Progress
from fmtool.datasets.data import Data
from fmtool.datasets.rows import in_parts
from fmtool.tables.table import Table


def data_table(data: Data, progress: Progress | None = None) -> Table:
    """Images of each class, and how the source was understood. Reads all images, some at a time, for their range of pixels."""
    names = data.class_names or tuple(map(str, range(int(data.labels.max()) + 1)))
    counts = data.labels.bincount(minlength=len(names)).tolist()
    kind = str(data.images.dtype).removeprefix("torch.")
    splits = ", ".join(f"{split} {count}" for split, count in data.splits.items())
    shape = "x".join(map(str, data.images.shape[1:]))
    notes = [
        f"format: {data.format}; splits: {splits}; shown: {data.split}, {len(data)} images",
        f"images {shape} {kind}, pixels {_reach(data, progress)}",
        *([] if data.class_names else ["the source names no classes"]),
        *(f"left out: {line}" for line in data.left_out),
    ]
    return Table("Data", {"class": "", "images": "d"}, [list(row) for row in zip(names, counts, strict=True)], notes)


def _reach(data: Data, progress: Progress | None) -> str:
    low, high = float("inf"), float("-inf")
    for start, some in in_parts(data.images):
        low, high = min(low, float(some.min())), max(high, float(some.max()))
        if progress:
            progress("looking at pixels", start + len(some), len(data))
    return f"{low:.4g} to {high:.4g}"
