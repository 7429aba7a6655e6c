"""Attack the images that a classifier, or the two-pass classifier, gets right (paper, sections 4.3 and 4.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fmtool.artifacts import streaming
from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.history import stage, with_option
from fmtool.artifacts.rows import image_names
from fmtool.artifacts.scratch import fresh_rows
from fmtool.attacks import adaptive, foolbox, registry
from fmtool.attacks.foolbox import Attacked
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets.data import Data, some_of
from fmtool.datasets.rows import as_float, row_seed
from fmtool.errors import AttackError, warn
from fmtool.masks.registry import FOURIER
from fmtool.masks.two_pass import TwoPass
from fmtool.models.compiled_classifier import Loss
from fmtool.models.foreign_code import own_settings
from fmtool.models.inspection import SLOTS_TRIED
from fmtool.runtime.journal import pack, unpack
from fmtool.runtime.shards import Shard
from fmtool.stages.defend import check_class_masks, two_pass
from fmtool.stages.device_faults import halving, resuming
from fmtool.stages.inputs import data_header, fitted_data, inputs_of, rows_of
from fmtool.stages.options import DEFAULT_EXECUTION, EPSILON, RESTARTS, Execution
from fmtool.stages.prepare import ReadyModel, code_of, ready_model, warn_of_slots


# Over 60 lines, a third of them signature and docstring.
@own_settings()
@halving
def attack(
    model: Artifact,
    data: Data,
    *,
    attack: str | None = None,
    epsilon: float | None = None,
    attack_options: Mapping[str, Any] | None = None,
    defense: Artifact | None = None,
    restarts: int | None = None,
    compile_: bool | None = None,
    seed: int = 0,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """Attack `data` with a name of `registry.ATTACKS` or a Foolbox class name; gives an `attack` artifact with every image.

    attack: None for fmn, or pgd with a defence. epsilon: the bound in the attack's own norm, for pixels in [0, 1] (default
    8/255 for pgd; fmn and deepfool take none). attack_options: arguments of the Foolbox class. defense: a `class-masks`
    artifact, whose two-pass classifier is attacked white-box by pgd from `restarts` random starts (default 5) and through each
    mask alone; predictions and status are then that classifier's. compile_: compile the network, which also judges the images
    then; None to do so only if there is enough work to repay it. AttackError if no image is classified correctly, so that there
    is nothing to attack.
    """
    name = attack or ("fmn" if defense is None else "pgd")
    epsilon = _bound(name, epsilon)
    starts = _restarts(name, defense, restarts)
    foolbox_attack, in_effect = foolbox.build(name, attack_options or {})
    shard, ranks = execution.shard, execution.ranks
    shared = shard is not None or ranks.of > 1
    _check_draws(name, foolbox_attack, starts, shared)
    ready = ready_model(model, execution)
    data = fitted_data(data, ready.spec, model)
    norm = foolbox.norm_of(foolbox_attack)
    if epsilon is not None:
        if "distance" in in_effect and in_effect["distance"] is None:
            others = ", ".join(one for one in registry.NORMS if one != "l2")
            raise AttackError(f"attack {name} needs --attack-option distance=l2 (or {others})")
        if norm is None and "distance" not in in_effect:
            raise AttackError(f"--epsilon: {name} has no distance to bound")
        registry.check_epsilon(epsilon, norm, ready.spec.input_shape)
    loss, compile_ = _compiles(ready, data, name, foolbox_attack, compile_)
    if defense is not None:
        check_class_masks(defense, model, ready, execution.allow_other_model)
    header, history = _described(name, epsilon, in_effect, ready, seed, model, data, defense, starts, compile_)
    header["norm"], whole = norm, data
    if shard is not None:
        header["shard"], data = shard.field(len(data)), some_of(data, shard.rows(len(data)))
    work = {
        "history": history,
        "header": header,
        "images": list(data.images.shape),
        **code_of(ready.classifier, ready.spec),
    }
    with resuming(execution, work) as journal:
        target, compiled = ready.network_as_begun(compile_, journal, loss)
        ranks.check_form(compiled)
        history = with_option(history, "--compile", compiled)
        if defense is not None:
            target = two_pass(defense, ready, target)
        if shared:
            first = some_of(whole, range(min(len(whole), SLOTS_TRIED)))
            warn_of_slots(target, first.pixels(), first.labels, ready, loss)
        common: dict[str, Any] = {
            "epsilon": epsilon,
            "batch": ready.batch,
            "device": ready.device,
            "progress": execution.progress,
            "journal": journal,
            "others": shared,
        }
        attacked, counts = _shared_out(
            data, execution, lambda some: _attacked(target, some, foolbox_attack, starts, seed, common)
        )
        if not ranks.leads:
            return Artifact("attack", header, {}, history)
        _check_attacked(attacked, name, "the model" if defense is None else "the two-pass classifier", shard)
        if defense is not None:
            header["defense"] = _against(defense, starts, counts)
        result = _written(data, attacked, header, history, execution)
        ranks.written()
    return result


def _written(
    data: Data, attacked: Attacked, header: dict[str, Any], history: list[dict[str, Any]], execution: Execution
) -> Artifact:
    """The artifact, of which a file is written and read a few rows at a time."""
    tensors: dict[str, Rows] = {"images": as_float(data.images), **vars(attacked), **rows_of(data)}
    layout = {name: (rows.dtype, tuple(rows.shape)) for name, rows in tensors.items()}
    progress = execution.progress
    with streaming.new_artifact(execution.output, "attack", header, history, layout, progress) as new:
        for name, rows in tensors.items():
            new.copy(name, rows, progress)
    return new.artifact


def _described(
    name: str,
    epsilon: float | None,
    in_effect: dict[str, Any],
    ready: ReadyModel,
    seed: int,
    model: Artifact,
    data: Data,
    defense: Artifact | None,
    restarts: int,
    compile_: bool,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header, except for the attack's results, and the history."""
    recorded = {
        "--attack": name,
        "--epsilon": epsilon,
        "--attack-option": in_effect,
        "--restarts": None if defense is None else restarts,
        "--compile": compile_,
        **ready.recorded(),
    }
    inputs = [*inputs_of(model, data), *([("--defense", defense)] if defense is not None else [])]
    header = {"attack": name, "options": {**in_effect, "epsilon": epsilon}, **data_header(data, ready.spec)}
    return header, stage("attack", recorded, seed, inputs)


def _compiles(ready: ReadyModel, data: Data, name: str, attack: Any, asked: bool | None) -> tuple[Loss | None, bool]:
    """The loss that the attack follows, and whether to compile it and the network: as asked, or if that pays."""
    loss = foolbox.followed_loss(attack)
    if loss is not None:
        steps = attack.steps if isinstance(attack.steps, int) else 0  # which Foolbox refuses
        return loss, ready.compiles(asked, 2 * len(data) * steps)
    if asked:
        raise AttackError(f"--compile: {name} doesn't follow the gradient of one loss, and runs only uncompiled")
    return None, False


def _attacked(
    target: nn.Module, data: Data, attack: Any, restarts: int, seed: int, common: Mapping[str, Any]
) -> tuple[Attacked, list[int]]:
    """The attacked images, and the counts of `Adaptive`, 0 without a defence. common: further arguments of either `run`."""
    images, labels = as_float(data.images), data.labels
    if not isinstance(target, TwoPass):
        seeds = _row_seeds(data, seed)
        return foolbox.run(target, images, labels, attack, row_seeds=seeds, **common), [0, 0, 0]

    def seeds_of(*trial: str | int) -> list[int]:
        return _row_seeds(data, seed, *trial)

    outcome = adaptive.run(target, images, labels, attack, restarts=restarts, row_seeds=seeds_of, **common)
    return outcome.attacked, [outcome.by_two_pass, outcome.by_class_masks, outcome.flat]


def _shared_out(
    data: Data, execution: Execution, work: Callable[[Data], tuple[Attacked, list[int]]]
) -> tuple[Attacked, list[int]]:
    """The result of `work` for all images; on every rank but the first, for that rank's images."""
    ranks = execution.ranks
    if ranks.of == 1:
        return work(data)
    rows = ranks.rows(range(len(data)))
    attacked, counts = work(some_of(data, rows))
    if ranks.leads:
        return _joined(ranks.gathered(_records(attacked, counts, rows), execution.progress), data)
    ranks.hand_over(_records(attacked, counts, rows))
    return attacked, counts


def _records(attacked: Attacked, counts: list[int], rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """A record for each row, and one with the counts."""
    for number, row in enumerate(rows):
        yield row, pack({name: values[number] for name, values in vars(attacked).items()})
    yield 0, pack({"counts": torch.tensor(counts)})


def _joined(records: Iterable[tuple[int, bytes]], data: Data) -> tuple[Attacked, list[int]]:
    """All rows and the sums of the counts, from the records of all processes."""
    names = ("clean_predictions", "adversarial_predictions", "status")
    columns: dict[str, Any] = {
        "adversarial": fresh_rows(data.images.shape, torch.float32),
        **{name: torch.zeros_like(data.labels) for name in names},
    }
    counts = torch.zeros(3, dtype=torch.int64)
    for row, record in records:
        values = unpack(record)
        counts += values.pop("counts", 0)
        for name, value in values.items():
            columns[name][row] = value
    return Attacked(**columns), counts.tolist()


def _against(defense: Artifact, restarts: int, counts: list[int]) -> dict[str, Any]:
    """The header field that says which masks were attacked and how many images each way fooled."""
    by_two_pass, by_class_masks, flat = counts
    if flat:
        warn(
            f"{flat} images have a gradient that is zero or not finite where the attack starts: they may only seem robust"
        )
    return {
        "digest": defense.digest,
        "robust": defense.header["robust"],
        "attack": defense.header["attack"],
        "basis": defense.header.get("basis", FOURIER),
        "restarts": restarts,
        "found": {"two_pass": by_two_pass, "class_masks": by_class_masks},
    }


def _bound(name: str, epsilon: float | None) -> float | None:
    """The epsilon in effect."""
    known = registry.ATTACKS.get(name)
    if known is not None and not known.bounded and epsilon is not None:
        raise AttackError(f"--epsilon: {name} minimises the perturbation and takes no bound")
    if known is not None and known.bounded and epsilon is None:
        return EPSILON
    return epsilon


def _restarts(name: str, defense: Artifact | None, restarts: int | None) -> int:
    """The number of random starts; AttackError for options that need a defence, or exclude one."""
    if defense is None:
        if restarts is not None:
            raise AttackError("--restarts requires --defense")
        return 1
    if name != "pgd":
        raise AttackError(f"--defense requires --attack pgd, got {name}")
    if restarts is not None and restarts < 1:
        raise AttackError(f"--restarts {restarts}: expected a number of at least 1")
    return RESTARTS if restarts is None else restarts


def _check_draws(name: str, attack: Any, restarts: int, shared: bool) -> None:
    """AttackError if the attack's random numbers rule out restarts, or shards."""
    if restarts > 1 and not attack.random_start:
        raise AttackError("random_start=False makes all restarts identical: expected --restarts 1")
    if shared and not foolbox.draws_for_each_image(attack):
        raise AttackError(
            f"{name} isn't known to attack each image on its own: --shard and torchrun might change its results"
        )


def _row_seeds(data: Data, seed: int, *trial: str | int) -> list[int]:
    return [row_seed(seed, *name, *trial) for name in image_names(data.key, data.index)]


def _check_attacked(attacked: Attacked, name: str, target: str, shard: Shard | None) -> None:
    n, right = len(attacked.status), int((attacked.status != WRONG_BEFORE).sum())
    if not right and shard is None:  # another shard may have some
        raise AttackError(f"{target} gets none of the {n} images right: there is nothing to attack")
    failed = int((attacked.status == FAILED).sum())
    if failed * 2 > right:
        warn(f"attack {name} fails on {failed} images and succeeds on {int((attacked.status == OK).sum())}")
