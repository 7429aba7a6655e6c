"""Results do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_files import load

import fmtool


@pytest.mark.slow
def test_attacks_and_masks_do_not_depend_on_the_number_of_threads(
    files: Path, set_threads: Callable[[int], None]
) -> None:
    """Each batch has one thread, however many there are; the digests are of files made by 1, 2 and 3."""
    digests = set()
    model, data = load(files, "model"), fmtool.load_data("digits:test", limit=40)
    few = {"min_steps": 20, "max_steps": 30, "execution": fmtool.Execution(batch_size=8)}
    for threads in (1, 2, 3):
        set_threads(threads)
        attacked = fmtool.attack(model, data, attack="pgd", epsilon=0.2, execution=fmtool.Execution(batch_size=8))
        masks = fmtool.fit_masks(model, attacked, for_="adversarial", lambda_=0.1, **few)  # type: ignore[arg-type]
        robust = fmtool.class_masks(model, attacked, robust=True, **few)  # type: ignore[arg-type]
        digests.add((attacked.digest, masks.digest, robust.digest))
    assert len(digests) == 1
