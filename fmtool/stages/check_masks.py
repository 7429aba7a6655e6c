"""How often masks keep the class that they were fitted to keep, against controls that keep as many entries elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact, Rows
from fmtool.artifacts.rows import ROWS_OF_FILE, check_range, check_unit, image_names, join
from fmtool.attacks.registry import title
from fmtool.datasets.rows import row_seed
from fmtool.errors import ArtifactError, MaskError, warn
from fmtool.masks import controls
from fmtool.masks.controls import Control, MaskCheck
from fmtool.masks.spectrum import filter_images, half_width, kept_entries
from fmtool.models.classifier import predict
from fmtool.runtime.progress import Progress
from fmtool.stages.device_faults import halving
from fmtool.stages.inputs import check_attack, check_same_model
from fmtool.stages.prepare import Ready, ready

DRAWS = 10  # of random places an image
# Which of an image's draws, beside 0, 1, ... for its random places: what breaks ties, and which other mask is taken.
LOWEST, LARGEST, SAME, OTHER, CHOOSE_SAME, CHOOSE_OTHER = -1, -2, -3, -4, -5, -6


@dataclass(frozen=True)
class _Rows:
    """Which images are filtered by which masks: row numbers of two files, targets, keys and indices, own seeds, (n) each."""

    images: Rows
    places: Tensor
    masks: Rows
    owners: Tensor
    targets: Tensor
    names: list[tuple[int, int]]
    seeds: list[int]

    def draw(self, row: int, number: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), float64, from (seed, key, index, number) alone."""
        generator = torch.Generator().manual_seed(row_seed(self.seeds[row], number, 0))
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def draws(self, rows: Tensor, number: int) -> Tensor:
        """(b, c, h, w // 2 + 1), a number an entry of these rows' masks."""
        return torch.stack([self.draw(row, number, *self.masks.shape[1:]) for row in rows.tolist()])

    def choices(self, number: int) -> Tensor:
        """(n), a number a row."""
        return torch.cat([self.draw(row, number, 1) for row in range(len(self.seeds))])


# Images (b, c, h, w), their masks and row numbers to what the classifier sees.
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Plan:
    """A control: which rows (m) it has, in which ways each is filtered, and the class (n) that an image should end in."""

    rows: Tensor
    ways: list[Way]
    targets: Tensor


@dataclass(frozen=True)
class _Seen:
    """What the classifier sees of some `rows` (m) in one way, made a few at a time, by any thread (`predict`)."""

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


@halving
def check_masks(
    model: Artifact,
    attack: Artifact,
    masks: Artifact,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "auto",
    batch: int | None = None,
    factory: str | None = None,
    allow_other_model: bool = False,
    progress: Progress | None = None,
) -> MaskCheck:
    """Filter an `attack` artifact's images by `masks`, or each by its true class's of `class-masks`, and by controls.

    Essential masks filter the clean images and adversarial ones the adversarial images, joined by image; the target is the
    masks' own. Class masks filter all clean images; the target is the label. draws: of random places an image.
    """
    if draws < 1:
        raise MaskError(f"--draws {draws}: expected a number of at least 1")
    run = ready(model, device, batch, factory)
    check_attack(attack, model, run.spec, allow_other_model)
    check_same_model(masks, model, allow_other_model)
    kept = _check_masks_fit(masks, run)
    by_class = masks.kind == "class-masks"
    rows = (_of_classes if by_class else _of_images)(attack, masks, seed)
    every = torch.arange(len(rows.targets))
    fitted = "mask of its class" if by_class else "fitted mask"
    planned: dict[str, _Plan] = {
        "no filter": _Plan(every, [lambda images, *_: images], rows.targets),
        fitted: _Plan(every, [lambda images, own, _: filter_images(images, own)], rows.targets),
        **_same_values(rows, every, draws),
        **(_of_another_class(rows, masks["classes"]) if by_class else _of_another_image(rows)),
    }
    ends = _run(run, rows, planned, progress)
    return MaskCheck(
        about="class" if by_class else masks.header["for"],
        attack=masks.header["attack"],
        n=len(every),
        draws=draws,
        flips=controls.FLIPS,
        kept_entries=float(kept.double().quantile(0.5)),
        entries=run.spec.input_shape[0] * run.spec.input_shape[1] * run.spec.input_shape[2],
        controls=[_control(name, ends[fitted][plan.rows], ends[name], fitted, seed) for name, plan in planned.items()],
    )


def _run(run: Ready, rows: _Rows, planned: dict[str, _Plan], progress: Progress | None) -> dict[str, Tensor]:
    """name -> (m) float64: how often, of its ways, each image of a control ends in its target."""
    done, total = 0, sum(len(plan.ways) for plan in planned.values())
    found = {}
    for name, plan in planned.items():
        hits = torch.zeros(len(plan.rows), dtype=torch.float64)
        for way in plan.ways:
            hits += (
                predict(run.classifier, _Seen(rows, plan.rows, way), run.batch, run.device) == plan.targets[plan.rows]
            )
            done += 1
            if progress:
                progress("checking masks", done, total)
        found[name] = hits / len(plan.ways)
    return found


def _control(name: str, fitted: Tensor, ends: Tensor, fitted_name: str, seed: int) -> Control:
    """fitted, ends (m): of the images that have this control."""
    kept = controls.share(ends)
    if name == fitted_name:
        return Control(name, len(ends), kept)
    p = None if name == "no filter" else controls.sign_flip_p(fitted, ends, seed)
    return Control(name, len(ends), kept, controls.difference(fitted, ends), p)


def _same_values(rows: _Rows, every: Tensor, draws: int) -> dict[str, _Plan]:
    """Each image's own values at random places, at the lowest frequencies, at the largest magnitudes of its spectrum."""
    h, w = rows.images.shape[2:]

    def at_random(number: int) -> Way:
        return lambda images, own, some: _moved(images, own, rows.draws(some, number), torch.zeros_like(own))

    def lowest(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
        return _moved(images, own, controls.lowest_first(h, w).expand(own.shape), rows.draws(some, LOWEST))

    def largest(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
        return _moved(images, own, controls.magnitudes(images), rows.draws(some, LARGEST))

    return {
        "random places": _Plan(every, [at_random(number) for number in range(draws)], rows.targets),
        "lowest frequencies": _Plan(every, [lowest], rows.targets),
        "largest magnitudes of the image": _Plan(every, [largest], rows.targets),
    }


def _of_another_image(rows: _Rows) -> dict[str, _Plan]:
    """Each image's own values where the mask of another image has its largest ones; those without such another are left out.

    Last the mask of an image of another class as it is: does it turn this image into that class? A mask that turns anything
    into its class says little of the image that it was fitted to.
    """
    targets = rows.targets.tolist()

    def control(same: bool, choice: int, ties: int) -> _Plan:
        others = controls.partners(targets, rows.names, rows.choices(choice), same=same)

        def way(images: Tensor, own: Tensor, some: Tensor) -> Tensor:
            return _moved(images, own, rows.masks[rows.owners[others[some]]], rows.draws(some, ties))

        return _Plan((others >= 0).nonzero().flatten(), [way], rows.targets)

    others = controls.partners(targets, rows.names, rows.choices(CHOOSE_OTHER), same=False)
    whole: list[Way] = [lambda images, _, some: filter_images(images, rows.masks[rows.owners[others[some]]])]
    return {
        "mask of another image of the same class": control(True, CHOOSE_SAME, SAME),
        "mask of another image of another class": control(False, CHOOSE_OTHER, OTHER),
        "mask of another class as it is, into that class": _Plan(
            (others >= 0).nonzero().flatten(), whole, rows.targets[others]
        ),
    }


def _of_another_class(rows: _Rows, classes: Tensor) -> dict[str, _Plan]:
    """The mask of a random other class, as it is: does the image stay in its class, and does the mask turn it into its own?

    A mask that turns any image into its class "keeps" those of its class without telling anything of them. None where there
    is one mask alone.
    """
    count = len(rows.masks)
    others = (rows.choices(CHOOSE_OTHER) * (count - 1)).long()
    others += others >= rows.owners
    some = torch.arange(len(others) if count > 1 else 0)
    ways: list[Way] = [lambda images, _, some: filter_images(images, rows.masks[others[some]])]
    return {
        "mask of another class as it is": _Plan(some, ways, rows.targets),
        "mask of another class as it is, into that class": _Plan(some, ways, classes[others.clamp(max=count - 1)]),
    }


def _moved(images: Tensor, own: Tensor, scores: Tensor, ties: Tensor) -> Tensor:
    return filter_images(images, controls.rearranged(own, scores, ties, images.shape[-1]))


def _of_images(attack: Artifact, masks: Artifact, seed: int) -> _Rows:
    """The images that both files have, in the masks' order: clean ones for essential masks, else adversarial ones."""
    owners, places = join([masks, attack])
    missing = len(masks["labels"]) - len(owners)
    if missing:
        warn(f"{missing} of {len(masks['labels'])} masks are of images that are not in {attack}, and are left out")
    if not torch.equal(masks["labels"][owners], attack["labels"][places]):
        raise ArtifactError(f"{masks} and {attack} give the same images other labels")
    targets, essential = masks["targets"][owners], masks.header["for"] == "essential"
    made_for = masks.header["attack"]
    if not essential and made_for != attack.header["attack"]:
        raise ArtifactError(
            f"{masks}: masks of {title(made_for or 'no attack')}'s images, {attack} holds {title(attack.header['attack'])}'s"
        )
    if not essential and not torch.equal(targets, attack["adversarial_predictions"][places]):
        raise ArtifactError(
            f"{masks}: its targets are not what {attack} turned the images to: another attack file's masks"
        )
    images = attack.rows("images" if essential else "adversarial")
    return _rows(attack, images, places, masks, owners, targets, seed)


def _of_classes(attack: Artifact, masks: Artifact, seed: int) -> _Rows:
    """All clean images whose true class has a mask."""
    labels = attack["labels"]
    owner = torch.full((len(attack.header["class_names"]),), -1)
    owner[masks["classes"]] = torch.arange(len(masks["classes"]))
    places = (owner[labels] >= 0).nonzero().flatten()
    if not len(places):
        raise MaskError(f"{masks}: has no mask of any class of {attack}'s images")
    if len(places) < len(labels):
        warn(f"{len(labels) - len(places)} of {len(labels)} images are of classes without a mask, and are left out")
    return _rows(attack, attack.rows("images"), places, masks, owner[labels[places]], labels[places], seed)


def _rows(
    attack: Artifact, images: Rows, places: Tensor, masks: Artifact, owners: Tensor, targets: Tensor, seed: int
) -> _Rows:
    names = image_names(attack["key"][places], attack["index"][places])
    seeds = [row_seed(seed, *name) for name in names]
    return _Rows(images, places, masks.rows("masks"), owners, targets, names, seeds)


def _check_masks_fit(masks: Artifact, run: Ready) -> Tensor:
    """(n) kept entries of the masks, which fit the model's images, lie in [0, 1] and are symmetric."""
    c, h, w = run.spec.input_shape
    rows, size = masks.rows("masks"), masks.header["image_size"]
    if list(rows.shape[1:]) != [c, h, half_width(w)] or size != [h, w]:
        raise ArtifactError(
            f"{masks}: masks are {list(rows.shape[1:])} for images of {size}, "
            f"the model takes images of {[h, w]} with {c} channels"
        )
    if not len(rows):
        raise MaskError(f"{masks}: holds no mask")
    for name in ("classes",) if masks.kind == "class-masks" else ("labels", "targets"):
        check_range(masks[name], len(run.spec.class_names), f"{masks}: {name}")
    kept = []
    for start in range(0, len(rows), ROWS_OF_FILE):
        some = rows[start : start + ROWS_OF_FILE]
        check_unit(some, str(masks))
        if not controls.is_symmetric(some, w):
            raise ArtifactError(f"{masks}: masks are not symmetric: entries k and -k differ")
        kept.append(kept_entries(some, w))
    return torch.cat(kept)
