"""Attack the images that a classifier gets right (paper, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmtool import artifacts, attacks
from fmtool.artifacts import Artifact
from fmtool.attacks import FAILED, OK, WRONG_BEFORE
from fmtool.datasets import Data
from fmtool.errors import AttackError
from fmtool.stages.common import Progress, check_data, data_header, inputs_of, ready, rows_of, warn


def attack(
    model: Artifact,
    data: Data,
    name: str = "fmn",
    *,
    epsilon: float | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    batch: int | None = None,
    factory: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Attack `data` with a name of `attacks.ATTACKS` or a Foolbox class name; gives an `attack` artifact with every image.

    epsilon: the l-inf bound in units of the [0, 1] pixel range (default 8/255 for pgd; fmn and deepfool take none).
    AttackError when the model gets no image right, so that there is nothing to attack.
    """
    known = attacks.ATTACKS.get(name)
    if known is not None and not known.bounded and epsilon is not None:
        raise AttackError(f"--epsilon: {name} looks for the smallest perturbation and takes no bound")
    if known is not None and known.bounded and epsilon is None:
        epsilon = attacks.parse_epsilon(attacks.DEFAULT_EPSILON)
    made, effect = attacks.build(name, options or {})
    run = ready(model, device, batch, factory)
    check_data(data, run.spec)
    rows = rows_of(data)
    seeds = [
        attacks.row_seed(seed, key, index)
        for key, index in zip(rows["key"].tolist(), rows["index"].tolist(), strict=True)
    ]
    images = data.pixels()
    found = attacks.run(
        run.classifier,
        images,
        data.labels,
        made,
        epsilon=epsilon,
        row_seeds=seeds,
        batch=run.batch,
        device=run.device,
        progress=progress,
    )
    if bool((found.status == WRONG_BEFORE).all()):
        raise AttackError(f"the model gets none of the {len(data)} images right: there is nothing to attack")
    failed = int((found.status == FAILED).sum())
    if failed * 2 > int((found.status != WRONG_BEFORE).sum()):
        warn(f"attack {name} fails on {failed} images, and works on {int((found.status == OK).sum())}")
    effect = {**effect, "epsilon": epsilon}
    header = {"attack": name, "options": effect, **data_header(data, run.spec)}
    tensors = {
        "images": images,
        "adversarial": found.adversarial,
        "clean_predictions": found.clean_predictions,
        "adversarial_predictions": found.adversarial_predictions,
        "status": found.status,
        **rows,
    }
    history = artifacts.stage(
        "attack", {"attack": name, "batch_size": run.batch, **effect}, seed, inputs_of(model, data)
    )
    return Artifact("attack", header, tensors, history)
