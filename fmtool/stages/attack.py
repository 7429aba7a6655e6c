"""Attack the images that a classifier, or the two-pass classifier, gets right (paper, sections 4.3 and 4.8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fmtool.artifacts import files
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage
from fmtool.artifacts.rows import image_names
from fmtool.attacks import adaptive, foolbox, registry
from fmtool.attacks.adaptive import RESTARTS
from fmtool.attacks.foolbox import SLOTS_TRIED, Attacked
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.datasets.rows import row_seed
from fmtool.errors import AttackError, warn
from fmtool.masks.two_pass import TwoPass
from fmtool.runtime import resume_file
from fmtool.runtime.distributed import ALONE, Ranks, Shard
from fmtool.runtime.journal import pack, unpack
from fmtool.runtime.progress import Progress
from fmtool.stages.defend import two_pass
from fmtool.stages.device_faults import halving, note_batch
from fmtool.stages.inputs import check_data, data_header, inputs_of, rows_of
from fmtool.stages.prepare import Ready, code_of, ready


@halving
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
    output: str | None = None,
    shard: Shard | None = None,
    restart: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Artifact:
    """Attack `data` with a name of `registry.ATTACKS` or a Foolbox class name; gives an `attack` artifact with every image.

    name: None for fmn, or pgd with a defence. epsilon: the l-inf bound in units of the [0, 1] pixel range (default 8/255 for pgd;
    fmn and deepfool take none). defense: a `class-masks` artifact, whose two-pass classifier is attacked white-box by pgd from
    `restarts` random starts (default 5) and through each mask alone; predictions and status are then that classifier's.
    output: write the file too ("-" for standard output); an interrupted run goes on from a file beside it, unless `restart`.
    shard: the part of the images to take. ranks: the processes that share them; what is returned on the others than the first
    has no rows. AttackError when no image is right before, so that there is nothing to attack.
    """
    name = name or ("fmn" if defense is None else "pgd")
    epsilon = _bound(name, epsilon)
    tries = _restarts(name, defense, restarts)
    built, effect = foolbox.build(name, options or {})
    shared = shard is not None or ranks.of > 1
    _check_draws(name, built, tries, shared)
    run = ready(model, ranks.device(device), batch, factory)
    check_data(data, run.spec)
    target = None if defense is None else two_pass(defense, model, run, allow_other_model)
    if shared:
        _try_slots(target or run.classifier, data, run)
    header, history = _described(name, epsilon, effect, run, seed, model, data, defense, tries)
    if shard is not None:
        header["shard"], data = shard.field(len(data)), _some(data, shard.rows(len(data)))
    work = {
        "history": history,
        "header": header,
        "images": list(data.images.shape),
        **code_of(run.classifier, run.spec),
    }
    with resume_file.resuming(output, work, restart=restart, rank=(ranks.rank, ranks.of)) as journal:
        note_batch(journal)
        common: dict[str, Any] = {"epsilon": epsilon, "progress": progress, "journal": journal}
        found, counts = _shared_out(
            data, ranks, progress, lambda some: _attacked(target, run, some, built, tries, seed, common)
        )
        if not ranks.leads:
            return Artifact("attack", header, {}, history)
        _check_found(found, name, "the model" if defense is None else "the two-pass classifier", shard)
        if defense is not None:
            header["defense"] = _against(defense, tries, counts)
        tensors = {"images": data.pixels(), **found.__dict__, **rows_of(data)}
        made = Artifact("attack", header, tensors, history)
        if output is not None:
            files.write(made, output)
        ranks.written()
    return made


def _described(
    name: str,
    epsilon: float | None,
    effect: dict[str, Any],
    run: Ready,
    seed: int,
    model: Artifact,
    data: Data,
    defense: Artifact | None,
    restarts: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header, but for what was found, and the history of the attack."""
    recorded = {
        "--attack": name,
        "--epsilon": epsilon,
        "--attack-option": effect,
        "--restarts": None if defense is None else restarts,
        **run.recorded(),
    }
    inputs = [*inputs_of(model, data), *([("--defense", defense)] if defense is not None else [])]
    header = {"attack": name, "options": {**effect, "epsilon": epsilon}, **data_header(data, run.spec)}
    return header, stage("attack", recorded, seed, inputs)


def _some(data: Data, rows: Sequence[int]) -> Data:
    """Some images of data that stays what it is for all who take some."""
    parts = {name: getattr(data, name)[list(rows)] for name in ("images", "labels", "key", "index")}
    return dataclasses.replace(data, **parts)


def _try_slots(classifier: nn.Module, data: Data, run: Ready) -> None:
    """Warn where images that are shared out may come out otherwise."""
    first = _some(data, range(min(len(data), SLOTS_TRIED)))
    if not foolbox.same_in_any_slot(classifier, first.pixels(), first.labels, run.batch, run.device):
        warn("an image's gradient hangs on its place in the batch here: shared runs may differ in bits from one run")


def _attacked(
    target: TwoPass | None, run: Ready, data: Data, built: Any, tries: int, seed: int, common: dict[str, Any]
) -> tuple[Attacked, list[int]]:
    """What becomes of the images, and the counts of `Adaptive`, 0 without a defence."""
    images, labels, common = data.pixels(), data.labels, {**common, "batch": run.batch, "device": run.device}
    if target is None:
        seeds = _row_seeds(data, seed)
        return foolbox.run(run.classifier, images, labels, built, row_seeds=seeds, **common), [0, 0, 0]

    def seeds_of(*trial: str | int) -> list[int]:
        return _row_seeds(data, seed, *trial)

    found = adaptive.run(target, images, labels, built, restarts=tries, row_seeds=seeds_of, **common)
    return found.attacked, [found.by_two_pass, found.by_class_masks, found.flat]


def _shared_out(
    data: Data, ranks: Ranks, progress: Progress | None, work: Callable[[Data], tuple[Attacked, list[int]]]
) -> tuple[Attacked, list[int]]:
    """What `work` finds on the images of all processes; on the others than the first, what it finds on their own."""
    if ranks.of == 1:
        return work(data)
    rows = ranks.rows(range(len(data)))
    found, counts = work(_some(data, rows))
    if ranks.leads:
        return _joined(ranks.gathered(_records(found, counts, rows), progress), data)
    ranks.hand_over(_records(found, counts, rows))
    return found, counts


def _records(found: Attacked, counts: list[int], rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """One for each row, and one with the counts."""
    for number, row in enumerate(rows):
        yield row, pack({name: values[number] for name, values in found.__dict__.items()})
    yield 0, pack({"counts": torch.tensor(counts)})


def _joined(records: Iterable[tuple[int, bytes]], data: Data) -> tuple[Attacked, list[int]]:
    """All rows and the sums of the counts, from the records of all processes."""
    names = ("clean_predictions", "adversarial_predictions", "status")
    columns = {
        "adversarial": torch.zeros_like(data.pixels()),
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
    """The header's field that says which masks were attacked, and how many images each way fooled."""
    by_two_pass, by_class_masks, flat = counts
    if flat:
        warn(f"{flat} images have a gradient of 0 where the attack starts: they may seem robust and not be")
    return {
        "digest": defense.digest,
        "robust": defense.header["robust"],
        "attack": defense.header["attack"],
        "restarts": restarts,
        "found": {"two_pass": by_two_pass, "class_masks": by_class_masks},
    }


def _bound(name: str, epsilon: float | None) -> float | None:
    """The epsilon in effect."""
    known = registry.ATTACKS.get(name)
    if known is not None and not known.bounded and epsilon is not None:
        raise AttackError(f"--epsilon: {name} looks for the smallest perturbation and takes no bound")
    if known is not None and known.bounded and epsilon is None:
        return registry.parse_epsilon(registry.DEFAULT_EPSILON)
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


def _check_draws(name: str, made: Any, restarts: int, shared: bool) -> None:
    """The attack's random numbers allow for restarts, and for sharing the images out."""
    if restarts > 1 and not made.random_start:
        raise AttackError("random_start=False makes every restart the same one: expected --restarts 1 with it")
    if shared and not foolbox.draws_for_each_image(made):
        raise AttackError(f"{name} draws random numbers for whole batches: --shard and torchrun would change them")


def _row_seeds(data: Data, seed: int, *trial: str | int) -> list[int]:
    return [row_seed(seed, *name, *trial) for name in image_names(data.key, data.index)]


def _check_found(found: Attacked, name: str, attacked: str, shard: Shard | None) -> None:
    n, right = len(found.status), int((found.status != WRONG_BEFORE).sum())
    if not right and shard is None:  # another shard may have some
        raise AttackError(f"{attacked} gets none of the {n} images right: there is nothing to attack")
    failed = int((found.status == FAILED).sum())
    if failed * 2 > right:
        warn(f"attack {name} fails on {failed} images, and works on {int((found.status == OK).sum())}")
