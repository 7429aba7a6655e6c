"""The table of an attack."""

from __future__ import annotations

from fmtool.attacks import FAILED, STATUS_NAMES, WRONG_BEFORE, title
from fmtool.summaries.headers import Arrays, Header
from fmtool.tables import Table


def attack_table(header: Header, arrays: Arrays) -> Table:
    """Accuracy before and after, success, and the median l-inf distance over the images that were right before."""
    import numpy as np

    status = arrays["status"]
    n, right = len(status), status != WRONG_BEFORE
    failed = status == FAILED
    distance = np.abs(arrays["adversarial"] - arrays["images"]).reshape(n, -1).max(axis=1).astype(float)
    # an attack that failed has found no distance, however large: it must not make the median smaller
    distance[failed] = np.inf
    after = (arrays["adversarial_predictions"] == arrays["labels"]).mean()
    row = [
        title(header["attack"]),
        n,
        100 * right.mean(),
        100 * after,
        100 * (1 - failed[right].mean()),
        float(np.median(distance[right])),
        255 * float(np.median(distance[right])),
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
    return Table(
        "Attack",
        columns,
        [row],
        [f"{counts}. success and l-inf: over the {int(right.sum())} images right before.", f"options: {options}"],
    )
