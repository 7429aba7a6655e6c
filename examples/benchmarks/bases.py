"""Image-steps a second of mask fitting in each basis, beside the Fourier basis.

python examples/benchmarks/bases.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

from common import arguments, classifiers, fit_rate, pixels, ratio, rounds, show, spread

from fmtool.masks.optimisation import FitOptions
from fmtool.models.classifier import batch_size

LAMBDA = 0.5
BASES = ("fourier", "dct", "haar", "phase", "pixels")
STEPS = 200  # of every image


def main() -> None:
    """Print one table."""
    given = arguments()
    _, run, _ = classifiers(given)
    images, labels = pixels(given, 256)
    slots = batch_size(run.spec.input_shape, run.device)

    def rate(basis: str, compiled: bool) -> float:
        options = FitOptions(LAMBDA, slots, STEPS - 1, STEPS - 1, compile_=compiled, basis=basis)
        return fit_rate(run, images, labels, options)

    forms = {"uncompiled": False, "compiled": True}
    works = {
        (basis, form): (lambda b=basis, c=compiled: rate(b, c)) for form, compiled in forms.items() for basis in BASES
    }
    found = rounds({f"{basis}, {form}": work for (basis, form), work in works.items()}, given.rounds)
    rows = []
    for basis in BASES:
        values = [(found[f"{basis}, {form}"], found[f"fourier, {form}"]) for form in forms]
        rows.append(
            [basis, *(text for ours, fourier in values for text in (spread(ours, ".0f"), ratio(fourier, ours)))]
        )
    show(
        f"Bases: ResNet-20, {'x'.join(map(str, images.shape[1:]))}, float32, every slot busy",
        [
            "basis",
            *(text for form in forms for text in (f"{form}, image-steps a second", "time of a step / Fourier's")),
        ],
        rows,
        [f"Medians, lowest and highest of {given.rounds} rounds."],
    )


if __name__ == "__main__":
    main()
