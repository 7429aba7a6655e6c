"""The table of an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fmtool.attacks.registry import FAILED, STATUS_NAMES, WRONG_BEFORE, masks_title, title
from fmtool.tables.headers import Arrays, Header
from fmtool.tables.table import Table

if TYPE_CHECKING:
    import numpy as np


def attack_name(header: Header) -> str:
    """The attack's name in tables: "PGD", or "adaptive PGD on robust FMN" where it knew the class masks."""
    name, defense = title(str(header["attack"])), header.get("defense")
    return f"adaptive {name} on {masks_title(defense)}" if defense else name


def attack_table(header: Header, arrays: Arrays) -> Table:
    """Accuracy before and after, success, and the median l-inf distance over the images that were right before."""
    import numpy as np

    status = arrays["status"]
    n, right = len(status), status != WRONG_BEFORE
    failed = status == FAILED
    with np.errstate(all="ignore"):  # images that are not finite have no distance
        distance = _distances(arrays["adversarial"], arrays["images"])
    # a failed attack found no adversarial image at any distance: it must not make the median smaller
    distance[failed] = np.inf
    after = (arrays["adversarial_predictions"] == arrays["labels"]).mean()
    defense = header.get("defense")
    median = float(np.median(distance[right])) if right.any() else None
    row = [
        attack_name(header),
        n,
        100 * right.mean(),
        100 * after,
        100 * (1 - failed[right].mean()) if right.any() else None,
        median,
        None if median is None else 255 * median,
    ]
    columns = {
        "attack": "",
        "n": "d",
        "clean accuracy %": ".2f",
        "accuracy attacked %": ".2f",
        "success %": ".2f",
        "median l-inf": ".4f",
        "in 1/255": ".3f",
    }
    counts = ", ".join(f"{int((status == code).sum())} {name}" for code, name in STATUS_NAMES.items())
    options = ", ".join(f"{key}={value}" for key, value in sorted(header["options"].items()) if value is not None)
    notes = [f"{counts}. success and l-inf: over the {int(right.sum())} images right before.", f"options: {options}"]
    if defense:
        fooled, restarts = defense["found"], defense["restarts"]
        notes.insert(
            1,
            f"accuracies are the two-pass classifier's. {fooled['two_pass']} images fooled by attacking it from {restarts} "
            f"random start{'s' if restarts > 1 else ''}, {fooled['class_masks']} more through the mask of one class after "
            "the other.",
        )
    return Table("Attack", columns, [row], notes)


def _distances(adversarial: Any, images: Any) -> np.ndarray[Any, Any]:
    """(n) float64 l-inf distances; arrays (n, c, h, w), or rows of a file, read a few at a time."""
    import numpy as np

    from fmtool.masks.radial import row_blocks

    blocks = [np.zeros(0)]
    for rows in row_blocks(images):
        moved = np.abs(np.asarray(adversarial[rows]) - np.asarray(images[rows]))
        blocks.append(moved.reshape(len(moved), -1).max(axis=1).astype(float))
    return np.concatenate(blocks)
