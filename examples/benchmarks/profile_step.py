"""Where a step of mask fitting spends its time, by torch's profiler.

python examples/benchmarks/profile_step.py --device cuda
"""

from __future__ import annotations

from common import arguments, classifiers, hardware, pixels
from torch.profiler import ProfilerActivity, profile

from fmtool.masks.fitting import fit_masks
from fmtool.masks.optimisation import FitOptions

STEPS = 64


def main() -> None:
    """Print the profiler's table."""
    given = arguments(precision={"default": "float32"})
    _, run, _ = classifiers(given)
    images, labels = pixels(given, run.batch)
    options = FitOptions(0.5, run.batch, min_steps=STEPS, max_steps=STEPS, compile_=True, precision=given.precision)
    fit_masks(run.classifier, images, labels, options, run.device)  # compiles
    gpu = run.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as found:
        fit_masks(run.classifier, images, labels, options, run.device)
    print(found.key_averages().table(sort_by=f"self_{'cuda' if gpu else 'cpu'}_time_total", row_limit=20))
    print(hardware())


if __name__ == "__main__":
    main()
