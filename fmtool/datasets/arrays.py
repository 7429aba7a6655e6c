"""Arrays of images: find images and labels among named arrays, and interpret their layout and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmtool.datasets.source import WHOLE, Source, Split
from fmtool.datasets.splits import split_in
from fmtool.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_NAMES = ("images", "image", "x", "data", "imgs", "img", "pixels", "features", "inputs")
LABEL_NAMES = ("labels", "label", "y", "targets", "target", "fine_labels", "fine_label", "classes")
CLASS_NAMES = ("class_names", "label_names", "fine_label_names", "classes")  # if they are text
LAYOUTS = {"nchw": "channels first", "nhwc": "channels last", "nhw": "grey, without an axis of channels"}
CHANNELS = (1, 3)
RANGE_SLACK = 1e-6  # undoing a normalisation exceeds [0, 1] by some 3e-8, which is clamped; more is an error
FAINT = 16  # of 255: bytes that never exceed this are probably of another range, whose white would be almost black
SHOWN = 8  # names in a message
WEIGHTS = (".weight", "state_dict")  # ends of names in checkpoints
REMEDIES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0))  # pixel ranges to suggest


def from_names(arrays: Mapping[str, Any], source: str, class_names: tuple[str, ...] = ()) -> Source:
    """Arrays under usual names (images, labels, x_test, y_test, train_images ...) as a source; DataError if any is missing."""
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    left_out = []
    for name, values in arrays.items():
        split, rest = split_in(name)
        if rest in CLASS_NAMES and _is_text(values) and split is None and not class_names and _ndim(values) == 1:
            class_names = tuple(_text(one) for one in values)
        elif rest in IMAGE_NAMES and _ndim(values) > 1:
            images.setdefault(split or WHOLE, []).append(name)
        elif rest in LABEL_NAMES:
            labels.setdefault(split or WHOLE, []).append(name)
        else:
            left_out.append(name)
    _check_pairs(images, labels, arrays, source)
    splits = {
        split: Split(_whole(arrays[names[0]], source), arrays[labels[split][0]]) for split, names in images.items()
    }
    for split, part in splits.items():
        if _ndim(part.labels) == 0 or len(part.images) != len(part.labels):
            sizes = f"{len(part.images)} images and {len(part.labels) if _ndim(part.labels) else 'no'} labels"
            raise DataError(f"{source}: holds {sizes}{f' in {split}' if split else ''}, expected as many of both")
    notes = (f"{len(left_out)} arrays that are neither images nor labels ({', '.join(left_out)})",) if left_out else ()
    return Source(splits, class_names, notes)


def _whole(images: Any, source: str) -> Any:
    """Images as one array, also those that come as a list."""
    return images if hasattr(images, "ndim") else as_tensor(images, source)


def _check_pairs(
    images: Mapping[str, list[str]], labels: Mapping[str, list[str]], arrays: Mapping[str, Any], source: str
) -> None:
    names = list(arrays)
    holds = f"it holds {', '.join(names[:SHOWN]) or 'nothing'}{', ...' if len(names) > SHOWN else ''}"
    if any(name.endswith(WEIGHTS) for name in names) and not (images or labels):
        raise DataError(
            f"{source}: holds a network's weights, not images: import-model --architecture makes a model file of them"
        )
    missing = [
        what
        for what, there, other in (("images", images, labels), ("labels", labels, images))
        if not there or other.keys() - there.keys()
    ]
    if missing:
        raise DataError(
            f"{source}: has no tensor {' and '.join(missing)}, expected images (n,c,h,w) and labels (n); {holds}"
        )
    for there in (images, labels):
        doubled = next((names for names in there.values() if len(names) > 1), None)
        if doubled:
            raise DataError(f"{source}: can't tell which of {' and '.join(doubled)} to take; {holds}")
    if WHOLE in images and len(images) > 1:
        raise DataError(f"{source}: holds {images[WHOLE][0]} beside splits, and can't tell where it belongs; {holds}")


def as_images(images: Any, layout: str | None, pixel_range: tuple[float, float] | None, source: str) -> Tensor:
    """(n, c, h, w), uint8 or float32 in [0, 1], of images of any layout and number type.

    layout: one of `LAYOUTS`, or None if the shape is unambiguous. pixel_range: the range of the numbers;
    None for uint8 up to 255, or floats in [0, 1]. DataError for anything that would have to be guessed.
    """
    import torch

    values = as_tensor(images, source)
    kind = str(values.dtype).removeprefix("torch.")
    if values.ndim not in (3, 4) or values.is_complex():
        raise DataError(
            f"{source}: images are {kind} {list(values.shape)}, expected uint8 or float (n, channels, height, width)"
        )
    values = _channels_first(values, layout, source)
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.dtype == torch.uint8 and pixel_range in (None, (0, 255)):
        return values.contiguous()
    if not values.is_floating_point() and values.dtype != torch.uint8 and pixel_range is None:
        least, most = (int(value) for value in values.double().aminmax()) if values.numel() else (0, 0)
        raise DataError(
            f"{source}: images are {kind} from {least} to {most}: "
            f"expected uint8, or --pixel-range, like {range_text(_remedy(least, most) or (0, 255))}, to name black and white"
        )
    values = values.to(torch.float32).contiguous()
    if isinstance(images, torch.Tensor) and values.data_ptr() == images.data_ptr():
        values = values.clone()  # the caller's own, while an array has been copied
    if pixel_range is not None:
        low, high = pixel_range
        if not -math.inf < low < high < math.inf:
            raise DataError(f"--pixel-range {range_text(pixel_range)}: expected two numbers, the lower one first")
        values.sub_(low).div_(high - low)
    return _within_unit(values, pixel_range, source)


def faint_range(images: Any) -> tuple[int, int] | None:
    """The least and the largest value of an array of uint8 without a pixel above `FAINT`: 0 and 1, say, are hardly grey values
    of 255. None for all others.
    """
    import numpy as np

    if str(getattr(images, "dtype", "")).removeprefix("torch.") != "uint8":  # NumPy knows no bfloat16
        return None
    values = np.asarray(images)
    if values.size and 0 < (most := int(values.max())) <= FAINT:
        return int(values.min()), most
    return None


def check_white(images: Any, source: str) -> None:
    """DataError for an array with a `faint_range`."""
    if (found := faint_range(images)) is not None:
        least, most = found
        raise DataError(
            f"{source}: images are uint8 from {least} to {most}: "
            f"expected --pixel-range 0,{most} if {most} is white, or 0,255 if all of them are so dark"
        )


def as_tensor(values: Any, source: str) -> Tensor:
    """An array or tensor of numbers as a tensor. DataError for text and objects."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        if values.is_nested or values.is_quantized or values.is_meta:
            raise DataError(f"{source}: holds a nested, quantised or meta tensor, expected plain numbers")
        return values.detach().to_dense()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{source}: holds images of type {array.dtype}, expected numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), copy=True, order="C"))


def parse_range(text: str) -> tuple[float, float]:
    """`--pixel-range` LOW,HIGH as two numbers."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"--pixel-range {text}: expected two numbers with a comma between them, like 0,255") from None
    return low, high


def _channels_first(values: Tensor, layout: str | None, source: str) -> Tensor:
    shape = list(values.shape)
    if layout is not None and (layout not in LAYOUTS or len(layout) != values.ndim):
        fitting = " or ".join(name for name in LAYOUTS if len(name) == values.ndim)
        raise DataError(f"{source}: images are {shape}, which --layout {layout} doesn't fit: expected {fitting}")
    if values.ndim == 3:
        return values[:, None]
    if layout is None:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first == last:
            raise DataError(
                f"{source}: images are {shape}: expected --layout nchw or nhwc to say where the channels are"
            )
        layout = "nchw" if first else "nhwc"
    return values if layout == "nchw" else values.permute(0, 3, 1, 2)


def _within_unit(values: Tensor, pixel_range: tuple[float, float] | None, source: str) -> Tensor:
    if not values.numel():
        return values
    low, high = (float(value) for value in values.aminmax())
    if low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK:  # false of NaN too
        return values.clamp_(0, 1)
    if pixel_range is not None:
        reach = [pixel_range[0] + value * (pixel_range[1] - pixel_range[0]) for value in (low, high)]
        raise DataError(
            f"{source}: pixels range from {reach[0]:.6g} to {reach[1]:.6g}, beyond --pixel-range {range_text(pixel_range)}"
        )
    remedy = _remedy(low, high)
    tail = f": pass --pixel-range {range_text(remedy)} if that is their range" if remedy else ""
    raise DataError(f"{source}: pixels range from {low:.6g} to {high:.6g}, expected [0, 1]{tail}")


def _remedy(low: float, high: float) -> tuple[float, float] | None:
    return next(((a, b) for a, b in REMEDIES if a <= low and high <= b), None)


def range_text(pixel_range: tuple[float, float]) -> str:
    """A range of pixels as `--pixel-range` takes it."""
    return ",".join(f"{value:g}" for value in pixel_range)


def _ndim(values: Any) -> int:
    import numpy as np

    return int(values.ndim) if hasattr(values, "ndim") else np.ndim(values)


def _is_text(values: Any) -> bool:
    import numpy as np

    return not hasattr(values, "is_floating_point") and np.asarray(values).dtype.kind in "USO"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
