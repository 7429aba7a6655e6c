"""Fit one frequency mask per image (paper, sections 3.1, 4.4 and A.3).

The authors fit one full-spectrum mask at a time with autograd. Here a batch of images advances together, each with an Adam
state of its own, and the basis gives the gradient with respect to a mask (in the Fourier basis on half the spectrum, entry by
entry what the full spectrum's loop computes). Each worker thread has a batch of its own; on a GPU a step is one CUDA graph.

A finished image leaves its slot to the next one, and the batch is padded. Where the classifier's gradient for an image depends
on that image alone (it does for ResNet-20 on a CPU), a mask is bitwise the same in any slot and beside any other images: an
interrupted fit continues from the state of its slots in any others, and images can be divided among processes. A few steps at the
start test whether this holds, and a warning says if it doesn't. Images need 501 to some 5,000 steps, so the last ones would
keep whole batches busy: they continue in ever narrower batches, but only if those steps give the same bits there too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.errors import MaskError
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.fit_queue import Fit, Job
from fmtool.masks.levels import make_levels
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.slots import fit_waiting
from fmtool.models import compiling
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal

REPORT_EVERY = 0.2  # seconds between calls of `progress`


@dataclass(frozen=True)
class FittedMasks:
    """masks (n, c, rows, columns) in [0, 1]; steps (n) int64; loss (n) of the last step; converged (n) bool: the stopping test
    was met; preserved (n) bool: the last forward pass, before the last update, gave the target (the authors' rule);
    preserved_stored (n) bool: one more pass with the mask as it is returned gives it; lambda_ (n) float64: the one of the last
    fit. All on the CPU.
    """

    masks: Tensor
    steps: Tensor
    loss: Tensor
    converged: Tensor
    preserved: Tensor
    preserved_stored: Tensor
    lambda_: Tensor


def fit_masks(
    classifier: nn.Module,
    images: Rows,
    targets: Tensor,
    options: FitOptions,
    device: torch.device | None = None,
    progress: Progress | None = None,
    starts: Callable[[int], Tensor] | None = None,
) -> FittedMasks:
    """One mask per image, all in memory; see `fit_each`."""
    n, c, h, w = images.shape
    fitted = FittedMasks(
        masks=torch.zeros(n, c, *basis_for(options.basis, h, w).shape, dtype=images.dtype),
        steps=torch.zeros(n, dtype=torch.int64),
        loss=torch.zeros(n, dtype=images.dtype),
        **{name: torch.zeros(n, dtype=torch.bool) for name in ("converged", "preserved", "preserved_stored")},
        lambda_=torch.zeros(n, dtype=torch.float64),
    )

    def store(row: int, fit: Fit) -> None:
        for one in fields(fit):
            getattr(fitted, one.name)[row] = getattr(fit, one.name)

    fit_each(classifier, images, targets, options, store, device, progress, starts)
    return fitted


def fit_each(
    classifier: nn.Module,
    images: Rows,
    targets: Tensor,
    options: FitOptions,
    store: Callable[[int, Fit], None],
    device: torch.device | None = None,
    progress: Progress | None = None,
    starts: Callable[[int], Tensor] | None = None,
    *,
    rows: Sequence[int] | None = None,
    journal: Journal = NO_JOURNAL,
    agree: Callable[[bool], None] | None = None,
) -> bool:
    """One mask per image; `store` receives (row, fit) of each when it is finished, from one thread at a time. Returns whether
    the network ran compiled, which it doesn't where that fails.

    images (n, c, h, w) float32 or float64; targets (n) int64, the class to keep. The classifier is frozen, in eval mode and
    on `device`. starts: a row's initial mask (c, rows, columns), symmetric, requested once by any worker; ones by
    default. rows: those to fit, if not all. journal: holds the rows that `store` received earlier, and the states of
    unfinished ones. agree: called with whether the network runs compiled, before the first step. MaskError if there is no image.
    """
    n = len(images)
    if n == 0:
        raise MaskError("no image is left to fit a mask to")
    device = device or torch.device("cpu")
    options = replace(options, compile_=compiling.as_begun(options.compile_, journal))
    rows = range(n) if rows is None else rows
    done = set(journal.rows())
    job = Job(images, targets, [row for row in rows if row not in done], store, starts, journal)
    total = len(rows)
    journal.stop_at_once()  # the workers save their states below, however the fit ends

    def work() -> None:
        fit_waiting(job, share, levels, images.shape[1:], images.dtype, device)

    with threads.pool(device) as pool:
        if job.left:
            levels = pool.submit(make_levels, classifier, images, targets, options, device).result()
            compiling.record_form(levels.first.options.compile_, options.compile_, journal)
            options = levels.first.options
        if agree and total:
            agree(options.compile_)
        count = threads.count(device) if job.left else 0
        share = -(-job.left // max(count, 1))  # so that few images are divided among all workers
        jobs = [pool.submit(work) for _ in range(count)]
        try:
            while wait(jobs, timeout=REPORT_EVERY, return_when=FIRST_EXCEPTION).not_done:
                if any(one.done() and one.exception() for one in jobs):
                    break
                job.ask_to_save()
                if progress:
                    progress("fitting masks", total - job.left, total)
        finally:
            job.stop.set()  # after an error or Ctrl-C; else all have ended
        for one in jobs:
            one.result()
    if progress:
        progress("fitting masks", total, total)
    return options.compile_


def perturbed(basis: Basis, channels: int, perturb: float, seed: int) -> Tensor:
    """A start 1 - perturb * u: (channels, rows, columns) float32, u uniform in [0, 1].

    Equal entries of the mask share one draw, so that the mask is symmetric and every entry uniform.
    """
    u = torch.rand(channels, *basis.shape, generator=torch.Generator().manual_seed(seed))
    drawn = u.flatten(1)
    for places, equals in basis.orbits():
        drawn[:, equals] = drawn[:, places]
    return 1 - perturb * u
