"""Tables of masks files and of class-masks files."""

from __future__ import annotations

from fmtool.attacks.registry import masks_title, title
from fmtool.masks.registry import mask_suffix
from fmtool.tables.headers import Arrays, Header
from fmtool.tables.table import Table


def masks_table(header: Header, arrays: Arrays) -> Table:
    """How many masks keep their class, how sparse they are, and how many steps they took."""
    import numpy as np

    from fmtool.masks.basis import check_shape

    masks, steps = arrays["masks"], arrays["steps"]
    basis = check_shape(masks, header, "this file")
    kept_entries, total = basis.kept_entries(masks), masks.shape[1] * basis.entries
    columns = {
        "for": "",
        "attack": "",
        "n": "d",
        "preserved %": ".1f",
        "as stored %": ".1f",
        "converged %": ".1f",
        "kept entries": ".0f",
        "of": "d",
        "steps": ".0f",
        "most steps": "d",
        "loss": ".3f",
    }
    losses = arrays["loss"].astype(float)
    losses = losses[np.isfinite(losses)]
    row = [
        header["for"],
        title(header["attack"]) if header["attack"] else None,
        len(steps),
        100 * arrays["preserved"].mean(),
        100 * arrays["preserved_stored"].mean(),
        100 * arrays["converged"].mean(),
        float(np.median(kept_entries)),
        total,
        float(steps.mean(dtype=float)),
        int(steps.max()),
        float(np.median(losses)) if len(losses) else None,
    ]
    if "lambda" in arrays:
        columns |= {"again %": ".1f", "least lambda": ".4g"}
        row += [100 * (arrays["lambda"] < np.float32(header["lambda"])).mean(), float(arrays["lambda"].min())]
    perturb = header.get("perturb", 0)
    started = f", started at 1 - {perturb:g} u with u drawn from [0, 1]" if perturb else ""
    return Table(
        "Masks",
        columns,
        [row],
        [
            f"lambda {header['lambda']:g}{mask_suffix(header)}{started}. "
            "kept entries (above 1e-3) and loss: medians; steps: mean.",
            *(
                [f"loss: over the {len(losses)} of {len(steps)} masks whose loss is finite."]
                if len(losses) < len(steps)
                else []
            ),
            *(["again: fitted again with a smaller lambda; steps: of the last fit."] if "lambda" in arrays else []),
        ],
    )


def class_masks_table(header: Header, arrays: Arrays) -> Table:
    """One row per class: steps, loss, kept entries."""
    import numpy as np

    from fmtool.masks.basis import check_shape

    masks, names = np.asarray(arrays["masks"][:]), header["class_names"]  # read here, where rows may lie in a file
    basis = check_shape(masks, header, "this file")
    kept_entries, total = basis.kept_entries(masks), masks.shape[1] * basis.entries
    columns = {
        "class": "",
        "steps": "d",
        "converged": "",
        "loss": ".4f",
        "kept entries": "d",
        "of": "d",
        "mean entry": ".3f",
    }
    rows = [
        [
            names[number] if 0 <= number < len(names) else str(number),
            int(steps),
            bool(converged),
            float(loss),
            int(count),
            total,
            float(mean),
        ]
        for number, steps, converged, loss, count, mean in zip(
            arrays["classes"],
            arrays["steps"],
            arrays["converged"],
            arrays["loss"],
            kept_entries,
            (masks * basis.counts).sum(axis=(1, 2, 3)) / total,  # in float64: forged files may hold numbers of any size
            strict=True,
        )
    ]
    used = " and ".join(f"{n} {name}" for n, name in zip(header["images"], ("clean", "adversarial"), strict=False))
    note = f"{masks_title(header)}, lambda {header['lambda']:g}, fitted to {used} images"
    return Table("Class masks", columns, rows, [note])
