"""The table of an attack."""

from __future__ import annotations

from fmtool.attacks import FAILED, STATUS_NAMES, WRONG_BEFORE, masks_title, title
from fmtool.summaries.headers import Arrays, Header
from fmtool.tables import Table


def attack_table(header: Header, arrays: Arrays) -> Table:
    """Accuracy before and after, success, and the median l-inf distance over the images that were right before."""
    import numpy as np

    status = arrays["status"]
    n, right = len(status), status != WRONG_BEFORE
    failed = status == FAILED
    with np.errstate(all="ignore"):  # of images that are not finite: their distance is none
        distance = np.abs(arrays["adversarial"] - arrays["images"]).reshape(n, -1).max(axis=1).astype(float)
    # an attack that failed has found no distance, however large: it must not make the median smaller
    distance[failed] = np.inf
    after = (arrays["adversarial_predictions"] == arrays["labels"]).mean()
    defense = header.get("defense")
    median = float(np.median(distance[right])) if right.any() else None
    row = [
        f"adaptive {title(header['attack'])} on {masks_title(defense)}" if defense else title(header["attack"]),
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
        found, restarts = defense["found"], defense["restarts"]
        notes.insert(
            1,
            f"accuracies are the two-pass classifier's. {found['two_pass']} images fooled by attacking it from {restarts} random "
            f"start{'s' if restarts > 1 else ''}, {found['class_masks']} more through the mask of one class after the other.",
        )
    return Table("Attack", columns, [row], notes)
