"""The table of spectra: how high the frequencies are that masks keep and that perturbations use (paper, A.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.format import arrays_of
from fmtool.artifacts.rows import image_names
from fmtool.attacks.registry import OK, masks_title, title
from fmtool.errors import ArtifactError
from fmtool.masks.registry import FOURIER, layer_of, mask_suffix
from fmtool.models.registry import INPUT
from fmtool.tables.attacks import attack_name
from fmtool.tables.headers import Arrays, Header
from fmtool.tables.table import ENDS, Cell, Table, interval, text_of

if TYPE_CHECKING:
    from fmtool.artifacts.format import Artifact
    from fmtool.masks.basis import Basis
    from fmtool.masks.radial import Estimate, Radial


def arrays(file: Artifact) -> dict[str, Any]:
    """The tensors as tables take them, see `arrays_of`; a model has none."""
    return {} if file.kind == "model" else arrays_of({name: file.rows(name) for name in file.tensors})


def source(file: Artifact) -> Source:
    """The file as a `Source`."""
    return Source(str(file), file.kind, file.header, arrays(file))


KINDS = ("masks", "attack", "class-masks")  # the kinds that hold spectra or images
IMAGES = "images"
AT_LAYERS = (
    "at a layer a pixel is one place of its output; rows of other layers than the first row's have no difference."
)
OTHER_FREQUENCIES = "rows in a basis with other frequencies than the first row's have no difference."
BARS = "▁▂▃▄▅▆▇█"
DECADES = 3  # of the energy's share that the bars span: 0.1 % to all


@dataclass(frozen=True)
class Source:
    """A file of one of `KINDS`: its name, its header, and its tensors as arrays or as rows of a file."""

    name: str
    kind: str
    header: Header
    arrays: Arrays


@dataclass(frozen=True)
class Part:
    """One set of spectra in a file. names (n): each row's (key, index), none for class masks; basis: of the spectra; layer: whose
    output has these spectra, or "input".
    """

    name: str
    attack: str | None
    radial: Radial
    names: list[tuple[int, int]]
    basis: Basis
    layer: str = INPUT


def parts_of(source: Source) -> list[Part]:
    """Masks: one part. An attack: the perturbations of the images it succeeded on, then the images, for reference."""
    from fmtool.masks import radial
    from fmtool.masks.basis import basis_for, check_shape

    header, arrays = source.header, source.arrays
    if source.kind not in KINDS:
        raise ArtifactError(f"{source.name}: expected a {' or '.join(KINDS)} file, got a file of kind {source.kind}")
    if source.kind == "attack":
        attack: str | None = attack_name(header)
        ok = arrays["status"] == OK
        basis = basis_for(FOURIER, *(int(size) for size in arrays["images"].shape[-2:]))
        names = image_names(arrays["key"], arrays["index"])
        moved = radial.of_images(arrays["adversarial"], arrays["images"], ok)
        succeeded = [name for name, one in zip(names, ok, strict=True) if one]
        images = radial.of_images(arrays["images"])
        return [
            Part(f"perturbations ({attack})", attack, moved, succeeded, basis),
            Part(IMAGES, None, images, names, basis),
        ]
    attack = title(str(header["attack"])) if header["attack"] else None
    masks = arrays["masks"]
    basis = check_shape(masks, header, source.name)
    if source.kind == "masks":
        name = f"adversarial masks ({attack or '-'})" if header["for"] == "adversarial" else f"{header['for']} masks"
        attack = attack if header["for"] == "adversarial" else None
        return [
            Part(
                name + mask_suffix(header),
                attack,
                radial.of_masks(masks, basis),
                image_names(arrays["key"], arrays["index"]),
                basis,
                layer_of(header),
            )
        ]
    name = f"class masks ({masks_title(header)})"
    return [Part(name, attack, radial.of_masks(masks, basis), [], basis)]


def spectrum_table(files: Sequence[Source]) -> Table:
    """One row per part of a file: mean radial frequency, shares of the energy, and the difference from the first row."""
    columns = {
        "file": "",
        "spectra": "",
        "n": "d",
        "all zero": "d",
        "mean frequency": ".4f",
        "95 %": ".",
        "at zero %": ".1f",
        "below 0.125 %": ".1f",
        "above 0.25 %": ".1f",
        "pairs": "d",
        "difference": "+.4f",
        "difference 95 %": ".",
    }
    first: Part | None = None
    rows: list[list[Any]] = []
    bases, images, layers = set(), set(), set()
    for file in files:
        for part in parts_of(file):
            if part.name == IMAGES and frozenset(part.names) in images:
                continue  # several attacks on the same images
            images |= {frozenset(part.names)} if part.name == IMAGES else set()
            rows.append(
                [file.name, *_row(part), *(_paired(first, part) if first and _comparable(first, part) else [None] * 3)]
            )
            first = first or part
            bases.add(part.basis)
            layers.add(part.layer)
    names = {basis.name for basis in bases}
    notes = [
        "mean frequency: radial, in cycles per pixel, weighted by energy (a mask's entry squared, |F x|^2 of the rest) over the "
        "full spectrum and all channels of each image, then the mean over n images; the highest is 0.7071.",
        "95 %: mean +- 1.96 s / sqrt(n). at zero, below, above: share of the energy; the limits are cycles per pixel.",
        "all masks count, whether or not they keep their class; perturbations: of the attacks that succeeded.",
        "difference: to the first row, over the images (pairs) that both hold.",
        *([AT_LAYERS] if layers - {INPUT} else []),
        *([OTHER_FREQUENCIES] if len(names) > 1 else []),
        *(
            f"{_flat(basis)} for the same energy at every frequency of {basis.h}x{basis.w} images"
            + (f" in the basis {basis.name}" if len(names) > 1 else "")
            for basis in sorted(bases, key=size_of)
        ),
    ]
    return Table("Radial frequency of spectra", columns, rows, notes, {"95 %": ENDS, "difference 95 %": ENDS})


def spectrum_lines(source: Source) -> list[str]:
    """One line per part of a file, for a terminal: mean radial frequency, and the energy's profile as bars."""
    from fmtool.masks.basis import basis_of

    if source.kind != "attack" and basis_of(source.header, source.name).frequencies is None:
        return []
    lines = []
    for part in parts_of(source):
        frequency = _estimate(part.radial.frequency)
        zero = f", {part.radial.empty} all zero left out" if part.radial.empty else ""
        head = f"{part.name}: mean radial frequency"
        if not frequency.n:
            lines.append(f"{head} - (n = 0{zero})")
            continue
        shares, centres = _estimate(part.radial.profile), part.radial.centres
        number = (
            f"{frequency.mean:.3f} ± {text_of(float(frequency.high - frequency.mean), '.3f')} cycles/pixel "
            f"(n = {frequency.n}{zero})"
        )
        lines.append(f"{head} {number}; energy from 0 |{bars(shares.mean)}| to {centres[-1]:.2f} cycles/pixel")
    return [*lines, "bars: share of the energy, logarithmic, 0.1 to 100 %"] if lines else []


def bars(shares: Any) -> str:
    """A bar for each share in [0, 1], logarithmic: a space below 0.1 %, full from 42 %."""
    import numpy as np

    levels = np.floor((np.log10(np.maximum(shares, 1e-12)) / DECADES + 1) * len(BARS)).astype(int)
    return "".join(BARS[min(level, len(BARS) - 1)] if level >= 0 else " " for level in levels)


def _row(part: Part) -> list[Any]:
    frequency = _estimate(part.radial.frequency)
    shares = [100 * float(_estimate(values).mean) for values in (part.radial.zero, part.radial.low, part.radial.high)]
    return [part.name, frequency.n, part.radial.empty, float(frequency.mean), _interval(frequency, ".4f"), *shares]


def _comparable(first: Part, part: Part) -> bool:
    """Whether a difference of their mean frequencies says something about the spectra alone."""
    import numpy as np

    ours, theirs = np.asarray(first.basis.frequencies), np.asarray(part.basis.frequencies)
    return first.layer == part.layer and np.array_equal(ours, theirs)


def _paired(first: Part, part: Part) -> list[Any]:
    """Pairs, mean difference of the mean radial frequency, and its 95 % interval; None for each if no image is shared."""
    theirs = dict(zip(first.names, first.radial.frequency, strict=False))
    pairs = [
        (mine, theirs[name]) for name, mine in zip(part.names, part.radial.frequency, strict=False) if name in theirs
    ]
    import numpy as np

    difference = _estimate(np.array([mine - other for mine, other in pairs], dtype=float))
    return [difference.n, float(difference.mean), _interval(difference, "+.4f")] if difference.n else [None] * 3


def _estimate(values: Any) -> Estimate:
    from fmtool.masks import radial

    return radial.estimate(values)


def _interval(estimate: Estimate, form: str) -> Cell:
    return interval(float(estimate.low), float(estimate.high), form)


def size_of(basis: Basis) -> tuple[int, int, str]:
    """The sort key of bases."""
    return basis.h, basis.w, basis.name


def _flat(basis: Basis) -> str:
    from fmtool.masks import radial

    flat = radial.flat(basis)
    return f"mean frequency {float(flat.frequency[0]):.4f} and {100 * float(flat.high[0]):.1f} % above 0.25"
