"""A name or a path becomes images and labels.

`--data` takes a name of `registry.DATASETS`, or a path that one of `readers.registry.READERS` reads; a suffix `:train`, `:val`,
`:test` or `:all` names the split. Importing this module needs neither torch nor torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.progress import Progress
from fmtool.artifacts.rows import image_names
from fmtool.datasets.arrays import FAINT, as_images, as_tensor, check_white, range_text
from fmtool.datasets.encoded_rows import EncodedRows
from fmtool.datasets.image_files import check_size
from fmtool.datasets.labels import numbered
from fmtool.datasets.readers.registry import SHORT, read_path
from fmtool.datasets.registry import DATA_ROOT, DATASETS
from fmtool.datasets.rows import keys_and_digest, row_range, spread, take, to_float
from fmtool.datasets.source import Encoded, Source
from fmtool.datasets.splits import choose, parse_spec
from fmtool.errors import DataError, UnlabelledError, first_line, unknown, warn

if TYPE_CHECKING:
    from torch import Tensor

    from fmtool.artifacts.format import Rows

LOOKED_AT = 64  # pictures, to tell whether they are almost black
UNLABELLED = -1  # the label of every image of a split whose labels are kept back, as Hugging Face's ImageNet has it
MOST_CLASSES = 2**20  # of data without class names: larger labels are no numbers of classes


@dataclass(frozen=True)
class Data:
    """Labelled images of one split, on the CPU.

    images: (n, c, h, w), uint8 or float32 in [0, 1]: a tensor, or rows that are decoded on demand. labels, index, key:
    (n) int64: the class, the position in the whole split, and the first 8 bytes of the sha256 of the image's pixels, uint8 where
    its file has 8 bits. class_names: empty if the source has none. digest: sha256 over images and labels. size to
    classes_by_position: the arguments of `load`.
    reach: the least and the largest label of the whole split, if its classes have no names.
    format, splits, left_out: the detected format, images per split, and a line for each kind of thing that was not used.
    """

    images: Rows
    labels: Tensor
    index: Tensor
    key: Tensor
    class_names: tuple[str, ...]
    name: str
    split: str
    digest: str
    size: int | None = None
    limit: int | None = None
    rows: tuple[int, int] | None = None
    layout: str | None = None
    pixel_range: tuple[float, float] | None = None
    classes_by_position: bool = False
    format: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    reach: tuple[int, int] | None = None

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def pixels(self) -> Tensor:
        """All images as float32 in [0, 1], in memory."""
        return to_float(self.images[:])

    def record(self) -> dict[str, str]:
        """The entry for this data in a header."""
        return {"name": self.name, "split": self.split}

    def chosen_by(self) -> dict[str, Any]:
        """The options, named without dashes, that selected and decoded the images, as histories record them."""
        options = {
            "size": self.size,
            "limit": self.limit,
            "rows": self.rows and f"{self.rows[0]}:{self.rows[1]}",
            "layout": self.layout,
            "pixel-range": self.pixel_range and range_text(self.pixel_range),
            "classes-by-position": self.classes_by_position or None,
        }
        return {name: value for name, value in options.items() if value is not None}


# Over 60 lines, a third of them signature and docstring.
def load(
    spec: str | os.PathLike[str],
    *,
    default: str = "test",
    size: int | None = None,
    limit: int | None = None,
    rows: tuple[int, int | None] | None = None,
    layout: str | None = None,
    pixel_range: tuple[float, float] | None = None,
    classes_by_position: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Data:
    """Load the images that `spec` names, SOURCE or SOURCE:SPLIT.

    default: the split if none is named: "train", or "test", which means "val" if there is no test split (a source without
    splits is one whole). size: side in pixels to which every image is resized. rows: only rows FIRST to END - 1 of the split.
    limit: at most this many images, spread evenly over the classes. layout, pixel_range: what an array's axes and numbers mean,
    see `arrays.as_images`. classes_by_position: labels are a model's outputs, regardless of class names. data_root: the folder
    of named data sets, None for $FMTOOL_DATA. Raises DataError for an unknown name, an unreadable source, labels out of range or
    pixels outside [0, 1].
    """
    import torch

    with torch.device("cpu"):  # whatever device the session has set
        name, split = parse_spec(os.fspath(spec))
        source = _named(name, data_root) or read_path(name)
        chosen = choose(split, default, source.splits, os.fspath(spec), source.left_out)
        labels, class_names = numbered(source, name)
        _check_labels({split: labels[split] for split in chosen}, class_names, name)
        for line in source.left_out:
            warn(f"{name}: left out {line}")
        row, label, index = _rows_of(labels, chosen, rows, limit, name)
        images, shallow = _images(source, chosen, row, size, layout, pixel_range, name, progress)
        if not len(images):
            raise DataError(f"{spec}: holds no images")
        key, digest = keys_and_digest(images, label, progress, shallow)
        twice = len(key) - len(set(image_names(key, index))) if len(chosen) > 1 else 0
        if twice:
            raise DataError(
                f"{spec}: {twice} images are at the same place in two of {', '.join(chosen)}: name one split, like "
                f"{name}:{chosen[0]}"
            )
    return Data(
        images,
        label,
        index,
        key,
        class_names,
        name if name in DATASETS else _file_name(name),
        "+".join(chosen) or "whole",
        digest,
        size=size,
        limit=limit,
        rows=None if rows is None else row_range(rows, len(labels[chosen[0]]), name),
        layout=layout,
        pixel_range=pixel_range,
        classes_by_position=classes_by_position,
        format=source.format,
        splits={split or "whole": len(part) for split, part in source.splits.items()},
        left_out=source.left_out,
        reach=None if class_names else _reach([labels[split] for split in chosen]),
    )


def _reach(labels: Sequence[Tensor]) -> tuple[int, int]:
    some = [values for values in labels if len(values)]
    return min(int(values.min()) for values in some), max(int(values.max()) for values in some)


def _file_name(path: str) -> str:
    """The name of a file or folder, never that of a data set."""
    name = PurePosixPath(path).name or path
    return f"./{name}" if name in DATASETS else name


def some_of(data: Data, rows: Tensor | Sequence[int]) -> Data:
    """Some of the images; name, split and class names stay those of the whole. rows: (m) int64, or as many numbers."""
    import torch

    numbers = torch.as_tensor(rows if isinstance(rows, torch.Tensor) else list(rows), dtype=torch.int64)
    parts = {name: getattr(data, name)[numbers] for name in ("labels", "index", "key")}
    return replace(data, images=take(data.images, numbers), **parts)


def _rows_of(
    labels: Mapping[str, Tensor], chosen: list[str], rows: tuple[int, int | None] | None, limit: int | None, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows of the chosen splits, one after the other, are to be read (m), their labels, and their index in their split."""
    import torch

    label = torch.cat([labels[split] for split in chosen])
    index = torch.cat([torch.arange(len(labels[split])) for split in chosen])
    row = torch.arange(len(label))
    if rows is not None:
        if len(chosen) > 1:
            raise DataError(f"{name}: --rows applies to one split, not to :all")
        first, end = row_range(rows, len(row), name)
        row = row[first:end]
    row = row[spread(label[row], limit)]
    return row, label[row], index[row]


def _images(
    source: Source,
    chosen: list[str],
    rows: Tensor,
    size: int | None,
    layout: str | None,
    pixel_range: tuple[float, float] | None,
    name: str,
    progress: Progress | None,
) -> tuple[Rows, Tensor | None]:
    """The images of these rows: of files, rows that are decoded when they are read; of arrays, a tensor.

    And which of them are 8-bit pictures that became floats, if any picture has more bits.
    """
    parts = [source.splits[split].images for split in chosen]
    if isinstance(parts[0], Encoded):
        for option, value in (("layout", layout), ("pixel-range", pixel_range)):
            if value is not None:
                raise DataError(f"{name}: --{option} applies to arrays, but these are image files")
        files = [(part, file) for part in parts for file in part.names]
        encoded = EncodedRows([files[row] for row in rows.tolist()], name, size, progress)
        images = encoded.decoded(progress) if encoded.small() else encoded
        if name not in DATASETS:
            some = f"of the first {min(len(images), LOOKED_AT)} pictures "
            _warn_if_dark(
                to_float(images[:LOOKED_AT]),
                name,
                some,
                "is that right? an array of them, such as .npy, takes --pixel-range",
            )
        return images, encoded.shallow
    try:
        return _array_images(parts, rows, size, layout, pixel_range, name), None
    except (MemoryError, RuntimeError) as error:
        from fmtool.runtime.failures import out_of_memory

        if not out_of_memory(error):
            raise
        raise DataError(
            f"{name}: {len(rows)} images don't fit into memory: expected fewer, see --limit and --rows"
        ) from None


def _warn_if_dark(images: Tensor, name: str, some: str, advice: str) -> None:
    """Of float images, as 12 bits of 16, or masks of 0 and 1, would be almost black."""
    if images.numel() and (most := float(images.max())) <= FAINT / 255:
        warn(f"{name}: no pixel {some}is brighter than {most:.2g}, where 1 is white: {advice}")


def _array_images(
    parts: list[Any],
    rows: Tensor,
    size: int | None,
    layout: str | None,
    pixel_range: tuple[float, float] | None,
    name: str,
) -> Tensor:
    import torch

    taken, start = [], 0
    for part in parts:
        inside = rows[(rows >= start) & (rows < start + len(part))] - start
        if isinstance(part, torch.Tensor):
            part = as_tensor(part, name)  # made dense, as rows of a sparse one can't be chosen
        whole = len(inside) == len(part)
        some = part if whole else part[inside.numpy() if not isinstance(part, torch.Tensor) else inside]
        images = as_images(some, layout, pixel_range, name)
        in_bytes = pixel_range is None and not images.is_floating_point() and images.numel()
        if in_bytes and int(images.max()) <= FAINT and name not in DATASETS:
            check_white(part, name)  # the whole array, as the chosen images alone may be dark
        if images.is_floating_point():
            _warn_if_dark(images, name, "", "is that right, and --pixel-range?")
        taken.append(images)
        start += len(part)
    if len({(one.shape[1:], one.dtype) for one in taken}) > 1:
        raise DataError(f"{name}: its splits hold images of different shapes or types")
    images = torch.cat(taken) if len(taken) > 1 else taken[0]
    return _squeeze(images, size, name) if size is not None and images.shape[-2:] != (size, size) else images


def _squeeze(images: Tensor, size: int, name: str) -> Tensor:
    from torchvision.transforms.v2.functional import resize

    check_size(size, size, name)
    try:
        squeezed: Tensor = resize(images, [size, size], antialias=True)
    except RuntimeError as error:  # too little memory, for example
        raise DataError(
            f"{name}: {len(images)} images can't be resized to {size}x{size}: {first_line(error)}"
        ) from None
    return squeezed.clamp(0, 1) if squeezed.is_floating_point() else squeezed


def _check_labels(labels: Mapping[str, Tensor], class_names: tuple[str, ...], source: str) -> None:
    top = len(class_names) or MOST_CLASSES
    for split, values in labels.items():
        if len(values) and int(values.max()) == int(values.min()) == UNLABELLED:
            raise UnlabelledError(
                f"{source}: {split or 'it'} has no labels, all are {UNLABELLED}: expected labelled images"
            )
        if len(values) and (int(values.min()) < 0 or int(values.max()) >= top):
            raise DataError(
                f"{source}: labels range from {int(values.min())} to {int(values.max())}, expected 0 to {top - 1}"
            )


def _named(name: str, data_root: str | None) -> Source | None:
    if name in DATASETS:
        root = data_root or os.environ.get(DATA_ROOT)
        if root and not os.path.isdir(root):
            raise DataError(f"--data-root {root}: no such folder")
        if os.path.exists(name) and not (root and os.path.samefile(root, ".")):
            warn(f"--data {name} is the data set of that name; the file or folder here is ./{name}")
        return DATASETS[name].load(Path(root) if root else None)
    if not os.path.exists(name):
        if "/" in name or "." in name:
            raise DataError(f"{name}: no such file or folder")
        raise DataError(unknown("data set", name, DATASETS) + f", or a path: {SHORT}")
    return None
