"""How often masks keep the class that they were fitted to keep, against controls that keep as many entries elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.history import other_attack
from fmtool.artifacts.progress import Progress
from fmtool.artifacts.rows import ROWS_OF_FILE, check_no_shard, check_range, check_unit, image_names, join
from fmtool.attacks.registry import title
from fmtool.datasets.rows import row_seed
from fmtool.errors import ArtifactError, MaskError, warn
from fmtool.masks import controls
from fmtool.masks.basis import Array, Basis, basis_of
from fmtool.masks.controls import Control, MaskCheck
from fmtool.masks.registry import layer_of, mask_suffix
from fmtool.models.classifier import NO_CLASS, predict, warn_unclassified
from fmtool.models.foreign_code import own_settings
from fmtool.stages.device_faults import halving
from fmtool.stages.inputs import check_attack, check_masks_shape, check_same_model, was_compiled
from fmtool.stages.options import DEFAULT_EXECUTION, PLACE_DRAWS, Execution
from fmtool.stages.prepare import Place, ReadyModel, place_of, ready_model

LOWEST, LARGEST = "lowest frequencies", "largest magnitudes of the image"
INTO = "mask of another class as it is, into that class"
SAME, OTHER = "places of another image's mask, same class", "places of another image's mask, other class"
# Purposes of an image's random draws, besides 0, 1, ... for its random places; fixed, so that results stay the same.
DRAWN_FOR = {
    f"ties, {LOWEST}": -1,
    f"ties, {LARGEST}": -2,
    f"ties, {SAME}": -3,
    f"ties, {OTHER}": -4,
    "choice among the same class": -5,
    "choice among other classes": -6,
}


@dataclass(frozen=True)
class _Rows:
    """Which images are filtered by which masks: row numbers in two files, targets, true labels, predictions of the images as they
    are, keys and indices, and seeds, (n) each.
    """

    images: Rows
    places: Tensor
    masks: Rows
    owners: Tensor
    targets: Tensor
    labels: Tensor
    predictions: Tensor
    names: list[tuple[int, int]]
    seeds: list[int]
    basis: Basis

    def filter(self, images: Tensor, masks: Tensor) -> Tensor:
        return self.basis.filter(images, masks)

    def moved(self, images: Tensor, own: Tensor, scores: Tensor, ties: Tensor) -> Tensor:
        """Images filtered by the values of their own masks, moved to the places with the highest scores."""
        return self.filter(images, controls.rearranged(own, scores, ties, self.basis))

    def generator(self, row: int, what: int | str) -> torch.Generator:
        """Of random numbers from (seed, key, index, what) alone; what: one of `DRAWN_FOR`, or a number."""
        number = DRAWN_FOR[what] if isinstance(what, str) else what
        return torch.Generator().manual_seed(row_seed(self.seeds[row], number, 0))

    def draw(self, row: int, what: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), float64."""
        return torch.rand(shape, generator=self.generator(row, what), dtype=torch.float64)

    def draws(self, rows: Tensor, what: str) -> Tensor:
        """(b, c, rows, columns), a number for each entry of these rows' masks."""
        return torch.stack([self.draw(row, what, *self.masks.shape[1:]) for row in rows.tolist()])

    def choices(self, what: str) -> Tensor:
        """(n), a number for each row."""
        return torch.cat([self.draw(row, what, 1) for row in range(len(self.seeds))])


# From images (b, c, h, w), their masks and row numbers to what the classifier sees.
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Plan:
    """A control: the rows (m) that it has, the ways in which each is filtered, and the target class (n) of each image."""

    rows: Tensor
    ways: list[Way]
    targets: Tensor


@dataclass(frozen=True)
class _Seen:
    """What the classifier sees of some `rows` (m) filtered in one way, computed a few at a time, in any thread."""

    all: _Rows
    rows: Tensor
    way: Way
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.all.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: Any) -> Tensor:
        rows = self.rows[some]
        return self.way(self.all.images[self.all.places[rows]], self.all.masks[self.all.owners[rows]], rows)


class _Chained:
    """What several `_Seen` hold, one after the other, as the rows of one pass."""

    def __init__(self, parts: Sequence[_Seen]) -> None:
        self.parts, self.dtype = parts, parts[0].dtype
        self.starts = list(accumulate(map(len, parts), initial=0))
        self.shape = (self.starts[-1], *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, rows: Any) -> Tensor:
        start, stop, _ = rows.indices(len(self))
        pieces = []
        for part, at in zip(self.parts, self.starts, strict=False):
            first, last = max(start, at), min(stop, at + len(part))
            if first < last:
                pieces.append(part[first - at : last - at])
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


@own_settings()
@halving
def check_masks(
    model: Artifact,
    attack: Artifact,
    masks: Artifact,
    *,
    draws: int = PLACE_DRAWS,
    seed: int = 0,
    execution: Execution = DEFAULT_EXECUTION,
) -> MaskCheck:
    """Filter an `attack` artifact's images by `masks`, or each by its true class's of `class-masks`, and by controls.

    Essential masks filter the clean images and adversarial ones the adversarial images, joined by image, or their activations
    at the masks' layer; the target is the masks' own. Class masks filter all clean images; the target is the label. draws:
    random places per image. The network runs compiled if it did in the attack.
    """
    execution.refuse("check-masks", "output", "shard", "ranks")
    if draws < 1:
        raise MaskError(f"--draws {draws}: expected a number of at least 1")
    ready = ready_model(model, execution)
    same = check_attack(attack, model, ready.spec, execution.allow_other_model)
    check_no_shard(masks)
    masks.expect("masks", "class-masks")
    check_same_model(masks, model, execution.allow_other_model)
    basis = basis_of(masks.header, masks)
    place = place_of(layer_of(masks.header), model, ready, execution)
    kept_entries = _check_masks_fit(masks, basis, ready, place)
    by_class = masks.kind == "class-masks"
    rows = (_of_classes if by_class else _of_images)(attack, masks, seed, basis)
    rows = replace(rows, images=place.of(rows.images))
    every = torch.arange(len(rows.targets))
    network = ready.network(was_compiled(attack), place=place)
    if not same:  # the file's predictions are another model's
        plain = _Seen(rows, every, _unfiltered)
        rows = replace(rows, predictions=predict(network, plain, ready.batch, ready.device, strict=False))
    fitted = "mask of its class" if by_class else "fitted mask"
    planned: dict[str, _Plan] = {
        "no filter": _Plan(every, [_unfiltered], rows.targets),
        fitted: _Plan(every, [lambda images, own, _: rows.filter(images, own)], rows.targets),
        **_same_values(rows, every, draws),
        **(_of_another_class(rows, masks["classes"]) if by_class else _of_another_image(rows)),
    }
    ends = _ends(network, ready, rows, planned, execution.progress)
    return MaskCheck(
        about="class" if by_class else masks.header["for"],
        attack=masks.header["attack"],
        n=len(every),
        draws=draws,
        flips=controls.FLIPS,
        kept_entries=float(np.median(kept_entries[np.unique(rows.owners.numpy())])),
        entries=place.shape[0] * basis.entries,
        controls=[_control(name, ends[fitted][plan.rows], ends[name], fitted, seed) for name, plan in planned.items()],
        suffix=mask_suffix(masks.header),
    )


def _unfiltered(images: Tensor, *_: Tensor) -> Tensor:
    return images


def _ends(
    classifier: nn.Module, ready: ReadyModel, rows: _Rows, planned: dict[str, _Plan], progress: Progress | None
) -> dict[str, Tensor]:
    """name -> (m) float64: the share of a control's ways in which each image ends in its target."""
    every = _Chained([_Seen(rows, plan.rows, way) for plan in planned.values() for way in plan.ways])
    shown = progress and (lambda _, done, total: progress("checking masks", done, total))
    predictions = predict(classifier, every, ready.batch, ready.device, progress=shown, strict=False)
    lost = int((predictions == NO_CLASS).sum())
    warn_unclassified(lost, len(predictions), "filtered images", "they end in no class")
    of_ways = iter(torch.split(predictions, list(map(len, every.parts))))
    return {
        name: torch.stack([(next(of_ways) == plan.targets[plan.rows]).double() for _ in plan.ways]).mean(dim=0)
        for name, plan in planned.items()
    }


def _control(name: str, fitted: Tensor, ends: Tensor, fitted_name: str, seed: int) -> Control:
    """fitted, ends (m): the shares for the images that have this control."""
    right = controls.share(ends)
    if name == fitted_name:
        return Control(name, len(ends), right)
    p = None if name == "no filter" else controls.sign_flip_p(fitted, ends, seed)
    return Control(name, len(ends), right, controls.difference(fitted, ends), p)


def _same_values(rows: _Rows, every: Tensor, draws: int) -> dict[str, _Plan]:
    """Each image's own values at random places, at the lowest frequencies, at the largest magnitudes of its coefficients.

    A basis whose entries have no frequency lacks the second of these.
    """
    frequencies = rows.basis.frequencies

    def at_random(number: int) -> Way:
        def way(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
            generators = [rows.generator(row, number) for row in some.tolist()]
            return rows.filter(images, controls.scattered(own, generators, rows.basis))

        return way

    def lowest(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
        scores = -torch.from_numpy(frequencies).expand(own.shape)
        return rows.moved(images, own, scores, rows.draws(some, f"ties, {LOWEST}"))

    def largest(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
        return rows.moved(images, own, rows.basis.magnitudes(images), rows.draws(some, f"ties, {LARGEST}"))

    ways: dict[str, list[Way]] = {
        "random places": [at_random(number) for number in range(draws)],
        **({} if frequencies is None else {LOWEST: [lowest]}),
        LARGEST: [largest],
    }
    return {name: _Plan(every, some, rows.targets) for name, some in ways.items()}


def _of_another_image(rows: _Rows) -> dict[str, _Plan]:
    """Each image's own values where another image's mask has its largest ones; images without such a partner are left out.

    The last control is the unchanged mask of an image of another class: does it turn this image into that class? A mask that
    turns anything into its class says little about the image that it was fitted to.
    """
    targets = rows.targets.tolist()

    def partners(same: bool) -> Tensor:
        drawn = rows.choices("choice among the same class" if same else "choice among other classes")
        return controls.partners(targets, rows.names, drawn, same=same)

    def control(name: str, others: Tensor) -> _Plan:
        def way(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
            return rows.moved(images, own, rows.masks[rows.owners[others[some]]], rows.draws(some, f"ties, {name}"))

        return _Plan((others >= 0).nonzero().flatten(), [way], rows.targets)

    others = partners(same=False)
    whole: list[Way] = [lambda images, _, some: rows.filter(images, rows.masks[rows.owners[others[some]]])]
    return {
        SAME: control(SAME, partners(same=True)),
        OTHER: control(OTHER, others),
        INTO: _into(rows, torch.where(others >= 0, rows.targets[others], -1), whole),
    }


def _of_another_class(rows: _Rows, classes: Tensor) -> dict[str, _Plan]:
    """The unchanged mask of a random other class: does the image stay in its class, and does the mask turn it into the mask's?

    A mask that turns any image into its class "keeps" those of its class without saying anything about them. Empty if there
    is only one mask.
    """
    count = len(rows.masks)
    others = (rows.choices("choice among other classes") * (count - 1)).long()
    others += others >= rows.owners
    some = torch.arange(len(others) if count > 1 else 0)
    ways: list[Way] = [lambda images, _, some: rows.filter(images, rows.masks[others[some]])]
    return {
        "mask of another class as it is": _Plan(some, ways, rows.targets),
        INTO: _into(rows, torch.where(others < count, classes[others.clamp(max=count - 1)], -1), ways),
    }


def _into(rows: _Rows, classes: Tensor, ways: list[Way]) -> _Plan:
    """Do images turn into the `classes` (n) of masks of others, -1 for none? Those that are of that class, or taken for it
    without a mask, are left out: nothing would have turned them.
    """
    new = (classes >= 0) & (classes != rows.labels) & (classes != rows.predictions)
    return _Plan(new.nonzero().flatten(), ways, classes)


def _of_images(attack: Artifact, masks: Artifact, seed: int, basis: Basis) -> _Rows:
    """The images that both files share, in the masks' order: clean ones for essential masks, else adversarial ones."""
    owners, places = join([masks, attack])
    missing = len(masks["labels"]) - len(owners)
    if missing:
        warn(f"{missing} of {len(masks['labels'])} masks are of images that are not in {attack}, and are left out")
    if not torch.equal(masks["labels"][owners], attack["labels"][places]):
        raise ArtifactError(f"{masks} and {attack} label the same images differently")
    targets, essential = masks["targets"][owners], masks.header["for"] == "essential"
    made_for = masks.header["attack"]
    if not essential and made_for != attack.header["attack"]:
        raise ArtifactError(
            f"{masks}: masks of {title(made_for or 'no attack')}'s images, {attack} holds {title(attack.header['attack'])}'s"
        )
    if not essential and not torch.equal(targets, attack["adversarial_predictions"][places]):
        raise ArtifactError(
            f"{masks}: its targets are not the classes that {attack} turned the images into: they belong to another attack file"
        )
    other = "" if essential else other_attack(masks.history, attack.history)
    if other:
        raise ArtifactError(f"{masks} and {attack} belong to different attacks: {other}")
    return _rows(attack, "images" if essential else "adversarial", places, masks, owners, targets, seed, basis)


def _of_classes(attack: Artifact, masks: Artifact, seed: int, basis: Basis) -> _Rows:
    """All clean images whose true class has a mask."""
    labels = attack["labels"]
    owner = torch.full((len(attack.header["class_names"]),), -1)
    owner[masks["classes"]] = torch.arange(len(masks["classes"]))
    places = (owner[labels] >= 0).nonzero().flatten()
    if not len(places):
        raise MaskError(f"{masks}: has no mask of any class of {attack}'s images")
    if len(places) < len(labels):
        warn(f"{len(labels) - len(places)} of {len(labels)} images are of classes without a mask, and are left out")
    return _rows(attack, "images", places, masks, owner[labels[places]], labels[places], seed, basis)


def _rows(
    attack: Artifact,
    which: str,
    places: Tensor,
    masks: Artifact,
    owners: Tensor,
    targets: Tensor,
    seed: int,
    basis: Basis,
) -> _Rows:
    names = image_names(attack["key"][places], attack["index"][places])
    seeds = [row_seed(seed, *name) for name in names]
    predictions = attack[{"images": "clean_predictions", "adversarial": "adversarial_predictions"}[which]][places]
    of_masks = masks.rows("masks")
    return _Rows(
        attack.rows(which),
        places,
        of_masks,
        owners,
        targets,
        attack["labels"][places],
        predictions,
        names,
        seeds,
        basis,
    )


def _check_masks_fit(masks: Artifact, basis: Basis, ready: ReadyModel, place: Place) -> Array:
    """(n) kept entries of the masks, which fit what is at their place, lie in [0, 1] and are symmetric."""
    rows = masks.rows("masks")
    check_masks_shape(rows, basis, masks, place.shape, place.layer)
    if not len(rows):
        raise MaskError(f"{masks}: holds no mask")
    for name in ("classes",) if masks.kind == "class-masks" else ("labels", "targets"):
        check_range(masks[name], len(ready.spec.class_names), f"{masks}: {name}")
    kept_entries = []
    for start in range(0, len(rows), ROWS_OF_FILE):
        some = rows[start : start + ROWS_OF_FILE]
        check_unit(some, str(masks))
        if not controls.is_symmetric(some, basis):
            raise ArtifactError(f"{masks}: masks are not symmetric: entries k and -k differ")
        kept_entries.append(basis.kept_entries(some))
    return np.concatenate(kept_entries)
