"""The table of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fmtool.attacks.registry import FAILED, NORMS, STATUS_NAMES, WRONG_BEFORE, masks_title, title
from fmtool.tables.headers import Arrays, Header
from fmtool.tables.table import Table

if TYPE_CHECKING:
    import numpy as np


def attack_name(header: Header) -> str:
    """The attack's name in tables: "PGD", or "adaptive PGD on robust FMN" where it knew the class masks."""
    name, defense = title(str(header["attack"])), header.get("defense")
    return f"adaptive {name} on {masks_title(defense)}" if defense else name


def attack_table(header: Header, arrays: Arrays) -> Table:
    """Accuracy before and after, success, and the median distances over the images classified correctly before: l-inf, l2 and
    that of the attack's own norm if different; for pixels in [0, 1].
    """
    import numpy as np

    status = arrays["status"]
    n, right = len(status), status != WRONG_BEFORE
    failed = status == FAILED
    own = header.get("norm")
    norms = ["l-inf", "l2", *([own] if own in ("l1", "l0") else [])]
    with np.errstate(all="ignore"):  # images that are not finite have no distance
        distances = _distances(arrays["adversarial"], arrays["images"], norms)
    # a failed attack has no adversarial image at any distance, so it must not lower the median
    distances[:, failed] = np.inf
    after = (arrays["adversarial_predictions"] == arrays["labels"]).mean()
    defense = header.get("defense")
    largest, *others = [float(np.median(row[right])) if right.any() else None for row in distances]
    row = [
        attack_name(header),
        n,
        100 * right.mean(),
        100 * after,
        100 * (1 - failed[right].mean()) if right.any() else None,
        largest,
        None if largest is None else 255 * largest,
        *others,
    ]
    columns = {
        "attack": "",
        "n": "d",
        "clean accuracy %": ".2f",
        "accuracy attacked %": ".2f",
        "success %": ".2f",
        "median l-inf": ".4f",
        "in 1/255": ".3f",
        **{f"median {norm}": ".4f" for norm in norms[1:]},
    }
    counts = ", ".join(f"{int((status == code).sum())} {name}" for code, name in STATUS_NAMES.items())
    options = ", ".join(f"{key}={value}" for key, value in sorted(header["options"].items()) if value is not None)
    far = ", where a failed attack is infinitely far" if failed[right].any() else ""
    notes = [f"{counts}. success and distances: over the {int(right.sum())} images right before{far}."]
    if defense:
        fooled, restarts = defense["found"], defense["restarts"]
        notes.append(
            f"accuracies are the two-pass classifier's. {fooled['two_pass']} images fooled by attacking it from {restarts} "
            f"random start{'s' if restarts > 1 else ''}, {fooled['class_masks']} more through the mask of one class after "
            "the other."
        )
    if own is not None and own != "l-inf":
        notes.append(f"the attack's own distance is {own}.")
    if options:
        notes.append(f"options: {options}")
    return Table("Attack", columns, [row], notes)


def _distances(adversarial: Any, images: Any, norms: Sequence[str]) -> np.ndarray[Any, Any]:
    """(norms, n) float64 distances; arrays (n, c, h, w), or rows of a file, read a few at a time."""
    import numpy as np

    from fmtool.masks.radial import row_blocks

    blocks = [np.zeros((len(norms), 0))]
    for rows in row_blocks(images):
        moved = (np.asarray(adversarial[rows]) - np.asarray(images[rows])).astype(float)
        moved = moved.reshape(len(moved), -1)
        blocks.append(np.stack([np.linalg.norm(moved, NORMS[norm], axis=1) for norm in norms]))
    return np.concatenate(blocks, axis=1)
