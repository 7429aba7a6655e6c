"""Attack the images that a classifier, or the two-pass classifier, gets right (paper, sections 4.3 and 4.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmtool import adaptive_attacks, artifacts, attacks
from fmtool.adaptive_attacks import RESTARTS
from fmtool.artifacts import Artifact
from fmtool.attacks import FAILED, OK, WRONG_BEFORE
from fmtool.datasets import Data
from fmtool.errors import AttackError
from fmtool.stages.common import Progress, check_data, data_header, inputs_of, ready, rows_of, warn
from fmtool.stages.defend import two_pass


def attack(
    model: Artifact,
    data: Data,
    name: str | None = None,
    *,
    epsilon: float | None = None,
    options: Mapping[str, Any] | None = None,
    defense: Artifact | None = None,
    restarts: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch: int | None = None,
    factory: str | None = None,
    allow_other_model: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Attack `data` with a name of `attacks.ATTACKS` or a Foolbox class name; gives an `attack` artifact with every image.

    name: None for fmn, or pgd with a defence. epsilon: the l-inf bound in units of the [0, 1] pixel range (default 8/255 for pgd;
    fmn and deepfool take none). defense: a `class-masks` artifact, whose two-pass classifier is attacked white-box by pgd from
    `restarts` random starts (default 5) and through each mask alone; predictions and status are then that classifier's.
    AttackError when no image is right before, so that there is nothing to attack.
    """
    if name is None:
        name = "fmn" if defense is None else "pgd"
    epsilon = _bound(name, epsilon)
    tries = _restarts(name, defense, restarts)
    made, effect = attacks.build(name, options or {})
    if defense is not None and tries > 1 and not made.random_start:
        raise AttackError("random_start=False makes every restart the same one: expected --restarts 1 with it")
    run = ready(model, device, batch, factory)
    check_data(data, run.spec)
    images, fields = data.pixels(), {}
    common: dict[str, Any] = {"epsilon": epsilon, "batch": run.batch, "device": run.device, "progress": progress}
    if defense is None:
        seeds = _row_seeds(data, seed)
        found = attacks.run(run.classifier, images, data.labels, made, row_seeds=seeds, **common)
    else:
        target = two_pass(defense, model, run, allow_other_model)
        adapted = adaptive_attacks.run(
            target,
            images,
            data.labels,
            made,
            restarts=tries,
            row_seeds=lambda *trial: _row_seeds(data, seed, *trial),
            **common,
        )
        found, fields = adapted.attacked, {"defense": _against(defense, tries, adapted)}
    _check_found(found, name, "the model" if defense is None else "the two-pass classifier")
    effect = {**effect, "epsilon": epsilon}
    header = {"attack": name, "options": effect, **fields, **data_header(data, run.spec)}
    tensors = {"images": images, **found.__dict__, **rows_of(data)}
    recorded = {"attack": name, "batch_size": run.batch, "device": run.device.type, **effect}
    inputs = inputs_of(model, data)
    if defense is not None:
        recorded["restarts"] = tries
        inputs.append(defense)
    return Artifact("attack", header, tensors, artifacts.stage("attack", recorded, seed, inputs))


def _against(defense: Artifact, restarts: int, adapted: adaptive_attacks.Adaptive) -> dict[str, Any]:
    """The header's field that says which masks were attacked, and how many images each way fooled."""
    if adapted.flat:
        warn(f"{adapted.flat} images have a gradient of 0 where the attack starts: they may seem robust and not be")
    return {
        "digest": defense.digest,
        "robust": defense.header["robust"],
        "attack": defense.header["attack"],
        "restarts": restarts,
        "found": {"two_pass": adapted.by_two_pass, "class_masks": adapted.by_class_masks},
    }


def _bound(name: str, epsilon: float | None) -> float | None:
    """The epsilon in effect."""
    known = attacks.ATTACKS.get(name)
    if known is not None and not known.bounded and epsilon is not None:
        raise AttackError(f"--epsilon: {name} looks for the smallest perturbation and takes no bound")
    if known is not None and known.bounded and epsilon is None:
        return attacks.parse_epsilon(attacks.DEFAULT_EPSILON)
    return epsilon


def _restarts(name: str, defense: Artifact | None, restarts: int | None) -> int:
    """How many random starts there are; AttackError for what doesn't go with, or without, a defence."""
    if defense is None:
        if restarts is not None:
            raise AttackError("--restarts goes with --defense")
        return 1
    if name != "pgd":
        raise AttackError(f"--defense goes with --attack pgd, got {name}")
    if restarts is not None and restarts < 1:
        raise AttackError(f"--restarts {restarts}: expected a number of at least 1")
    return RESTARTS if restarts is None else restarts


def _row_seeds(data: Data, seed: int, *trial: str | int) -> list[int]:
    pairs = zip(data.key.tolist(), data.index.tolist(), strict=True)
    return [attacks.row_seed(seed, key, index, *trial) for key, index in pairs]


def _check_found(found: attacks.Attacked, name: str, attacked: str) -> None:
    n, right = len(found.status), int((found.status != WRONG_BEFORE).sum())
    if not right:
        raise AttackError(f"{attacked} gets none of the {n} images right: there is nothing to attack")
    failed = int((found.status == FAILED).sum())
    if failed * 2 > right:
        warn(f"attack {name} fails on {failed} images, and works on {int((found.status == OK).sum())}")
