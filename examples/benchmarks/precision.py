"""What another precision does to masks: their cosine to the float32 masks, beside that of float32 masks to themselves under
another rounding, which is all that can be asked for.

    python examples/benchmarks/precision.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import time

import torch
from common import arguments, classifiers, pixels, show

from fmtool.masks.basis import basis_for
from fmtool.masks.fitting import FittedMasks, fit_masks
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.registry import FOURIER
from fmtool.models.classifier import batch_size, predict
from fmtool.models.registry import PRECISIONS
from fmtool.stages.options import MAX_STEPS, MIN_STEPS

LAMBDA = 0.5


def main() -> None:
    """Print one table."""
    given = arguments(images={"type": int, "default": 256})
    _, run, _ = classifiers(given)
    images, labels = pixels(given, 2 * given.images)
    right = (predict(run.classifier, images, run.batch, run.device) == labels).nonzero().flatten()[: given.images]
    images, labels = images[right], labels[right]

    slots = batch_size(run.spec.input_shape, run.device)

    def fit(precision: str, compiled: bool) -> tuple[FittedMasks, float]:
        options = FitOptions(LAMBDA, slots, MIN_STEPS, MAX_STEPS, compile_=compiled, precision=precision)
        started = time.perf_counter()
        return fit_masks(run.classifier, images, labels, options, run.device), time.perf_counter() - started

    names = [name for name in PRECISIONS if name != "tf32" or run.device.type == "cuda"]
    for name in names:  # compiles
        short = FitOptions(LAMBDA, slots, min_steps=0, max_steps=0, compile_=True, precision=name)
        fit_masks(run.classifier, images, labels, short, run.device)
    base, taken = fit("float32", True)
    rows = [_row("float32", base, base, taken)]
    rows.append(_row("float32 again, uncompiled: another rounding", base, *fit("float32", False)))
    rows += [_row(name, base, *fit(name, True)) for name in names if name != "float32"]
    show(
        f"Precision: ResNet-20, essential masks of {len(images)} images, lambda {LAMBDA}",
        ["", "cosine to float32, mean", "median", "lowest", "preserved %", "steps", "kept entries", "masks a second"],
        rows,
        [
            "Cosine of each mask to the compiled float32 mask of the same image, over the full spectrum; kept entries: median."
        ],
    )


def _row(name: str, base: FittedMasks, found: FittedMasks, taken: float) -> list[str]:
    rows, columns = base.masks.shape[-2:]
    basis = basis_for(FOURIER, rows, 2 * (columns - 1))
    one, other = (basis.to_full(masks).flatten(1).double() for masks in (base.masks, found.masks))
    cosines = torch.nn.functional.cosine_similarity(one, other, dim=1)
    return [
        name,
        f"{cosines.mean():.3f}",
        f"{cosines.median():.3f}",
        f"{cosines.min():.3f}",
        f"{100 * found.preserved.double().mean():.1f}",
        f"{found.steps.double().mean():.0f}",
        f"{(other > 1e-3).sum(dim=1).double().median():.0f}",
        f"{len(found.steps) / taken:.2f}",
    ]


if __name__ == "__main__":
    main()
