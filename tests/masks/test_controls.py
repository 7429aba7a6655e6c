"""Controls of masks: what they keep exactly, in which order, and the statistics they are compared by."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from half_spectrum import filter_images, fourier, kept_entries, symmetrise_, to_full
from scipy import stats
from torch import Tensor

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError, FmtoolWarning, MaskError
from fmtool.masks.controls import (
    difference,
    is_symmetric,
    partners,
    rearranged,
    share,
    sign_flip_p,
)
from fmtool.stages.prepare import ready_model

SIZES = [(8, 8), (9, 9), (8, 9), (9, 6), (1, 4)]


def sparse_masks(n: int, c: int, h: int, w: int, seed: int) -> Tensor:
    """(n, c, h, w // 2 + 1) symmetric masks in [0, 1], three quarters of them zeros."""
    draw = torch.Generator().manual_seed(seed)
    masks = symmetrise_(torch.rand(n, c, h, w // 2 + 1, generator=draw), w)
    return masks * (symmetrise_(torch.rand(masks.shape, generator=draw), w) > 0.75)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_orbits_are_those_of_the_full_spectrum(h: int, w: int) -> None:
    """Counted by hand: each entry with its mirror image; both classes together fill the half spectrum and the full one."""
    once, twice = fourier(h, w).orbits()
    alone = [
        (row, column)
        for row, column in itertools.product(range(h), range(w))
        if (-row % h, -column % w) == (row, column)
    ]
    assert sorted(divmod(place, w // 2 + 1) for place in once[0].tolist()) == alone
    assert torch.equal(*once)
    assert len(once[0]) + 2 * len(twice[0]) == h * w
    assert set(torch.cat([*once, *twice]).tolist()) == set(range(h * (w // 2 + 1)))


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_rearranged_masks_keep_values_counts_and_symmetry_exactly(h: int, w: int) -> None:
    masks = sparse_masks(5, 3, h, w, 0)
    scores, ties = torch.rand(2, *masks.shape, generator=torch.Generator().manual_seed(1))
    made = rearranged(masks, scores, ties, fourier(h, w))
    assert made.shape == masks.shape and is_symmetric(made, fourier(h, w))
    assert np.array_equal(kept_entries(made, w), kept_entries(masks, w))
    assert torch.equal(to_full(made, w).flatten(1).sort().values, to_full(masks, w).flatten(1).sort().values)
    for places, mirrors in fourier(h, w).orbits():
        before, after, score = (one.flatten(2)[..., places].flatten(1) for one in (masks, made, scores))
        assert torch.equal(after.sort().values, before.sort().values)  # so that values stay where they count as often
        assert torch.equal(made.flatten(2)[..., places], made.flatten(2)[..., mirrors])
        in_order = after.gather(1, score.argsort(dim=1, descending=True))
        assert bool((in_order.diff(dim=1) <= 0).all())


def test_ties_are_broken_by_the_draw_alone() -> None:
    masks, basis = sparse_masks(2, 2, 6, 6, 2), fourier(6, 6)
    ties = torch.rand(masks.shape, generator=torch.Generator().manual_seed(3))
    level = rearranged(masks, torch.zeros_like(masks), ties, basis)
    assert torch.equal(level, rearranged(masks, -ties, torch.zeros_like(ties), basis))
    assert not torch.equal(level, rearranged(masks, torch.zeros_like(masks), ties.flip(0), basis))


def test_its_own_scores_leave_a_mask_as_it_is() -> None:
    masks = symmetrise_(torch.rand(3, 2, 8, 5, generator=torch.Generator().manual_seed(4)), 8)
    assert torch.equal(rearranged(masks, masks, torch.zeros_like(masks), fourier(8, 8)), masks)


@pytest.mark.parametrize(("h", "w"), SIZES[:4])
def test_lowest_frequencies_fill_the_spectrum_from_its_centre(h: int, w: int) -> None:
    """Zero frequency gets the largest of the values that count once; none lies farther out than a smaller one of its class."""
    masks = sparse_masks(4, 1, h, w, 5)
    scores = -torch.from_numpy(fourier(h, w).frequencies)
    assert float(scores[0, 0]) == 0 and float(scores.flatten()[1:].max()) < 0
    made = rearranged(masks, scores.expand(masks.shape), torch.rand(masks.shape), fourier(h, w))
    once, twice = [masks.flatten(2)[..., places].flatten(1) for places, _ in fourier(h, w).orbits()]
    assert torch.equal(made[:, 0, 0, 0], once.amax(1))
    nearest = (-scores.flatten()[fourier(h, w).orbits()[1][0]]).argmin()
    assert bool((made.flatten(2)[:, 0, fourier(h, w).orbits()[1][0][nearest]] <= twice.amax(1)).all())
    for places, _ in fourier(h, w).orbits():
        radius, values = -scores.flatten()[places], made.flatten(2)[:, 0, places]
        for a, b in itertools.combinations(range(len(places)), 2):
            if float(radius[a]) < float(radius[b]):
                assert bool((values[:, a] >= values[:, b]).all())


def test_radial_frequency_ties_do_not_depend_on_rounding() -> None:
    """3-4 and 5-0 are equally far from the centre, also where 1 / h is no binary fraction."""
    scores = -torch.from_numpy(fourier(224, 224).frequencies)
    assert float(scores[3, 4]) == float(scores[4, 3]) == float(scores[5, 0]) == float(scores[-3, 4])
    assert float(scores[0, 112]) == -0.5


def test_magnitudes_of_a_wave_are_largest_at_its_frequency() -> None:
    wave = torch.cos(2 * torch.pi * (2 * torch.arange(8)[:, None] + 3 * torch.arange(8)) / 8)[None, None]
    assert int(fourier(*wave.shape[-2:]).magnitudes(wave).argmax()) == 2 * 5 + 3


def test_partners_share_the_target_or_do_not_and_every_candidate_is_drawn_as_often() -> None:
    targets = [0, 1, 0, 2, 1, 0]
    names = [(7, 0), (3, 1), (9, 2), (1, 3), (2, 4), (5, 5)]
    drawn: dict[tuple[bool, int], list[int]] = {}
    for draw in (torch.arange(12) + 0.5) / 12:  # every candidate of 1, 2, 3, 4 alike
        for same in (True, False):
            found = partners(targets, names, draw.expand(6).double(), same=same).tolist()
            for row, other in enumerate(found):
                drawn.setdefault((same, row), []).append(other)
    for (same, row), others in drawn.items():
        expected = {other for other in range(6) if other != row and (targets[other] == targets[row]) == same} or {-1}
        assert set(others) == expected, (same, row)
        if 12 % len(expected) == 0:
            assert len({others.count(other) for other in expected}) == 1
    order = [3, 0, 5, 1, 4, 2]  # the choice follows the image, not its place
    draws = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    plain = partners(targets, names, draws, same=False).tolist()
    mixed = partners([targets[row] for row in order], [names[row] for row in order], draws[order], same=False).tolist()
    assert [order[other] for other in mixed] == [plain[row] for row in order]


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 7), (7, 7), (64, 100)])
def test_shares_have_wilsons_interval(hits: int, n: int) -> None:
    kept = torch.arange(n) < hits
    found, expected = share(kept), stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert found.value == pytest.approx(hits / n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_paired_differences_and_nothing_at_all() -> None:
    a, b = torch.tensor([1.0, 1, 0, 1, 1]), torch.tensor([0.5, 0, 0, 1, 0.1])
    found, paired = difference(a, b), (a - b).double()
    half = 1.959964 * float(paired.std()) / math.sqrt(5)
    assert (found.low, found.value, found.high) == pytest.approx(
        (found.value - half, float(paired.mean()), found.value + half)
    )
    nothing = torch.zeros(0)
    assert math.isnan(share(nothing).value) and math.isnan(difference(nothing, nothing).value)
    assert math.isnan(sign_flip_p(nothing, nothing, 0)) and math.isnan(difference(a[:1], b[:1]).low)


def test_sign_flips_against_all_of_them() -> None:
    """Ties count; the exact p of 8 pairs over all 256 signs, within what 999 draws scatter."""
    draw = torch.Generator().manual_seed(7)
    a, b = (torch.randint(0, 11, (8,), generator=draw) / 10 for _ in range(2))
    paired = (a - b).double()
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=torch.float64)
    exact = float(((signs @ paired) >= paired.sum() - 1e-9).double().mean())
    assert sign_flip_p(a, b, 0) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 999))
    assert sign_flip_p(a, a, 0) == 1
    assert sign_flip_p(torch.ones(20), torch.zeros(20), 0) == 1 / 1000
    assert sign_flip_p(a, b, 1, 99) == sign_flip_p(a, b, 1, 99)


# The stage ------------------------------------------------------------------------------------------------------------


def load(files: Path, name: str) -> Artifact:
    """One of the shared files."""
    return fmtool.read(str(files / f"{name}.safetensors"))


def changed(artifact: Artifact, **tensors: Tensor) -> Artifact:
    """The same artifact with other tensors."""
    return dataclasses.replace(artifact, tensors={**artifact.tensors, **tensors})


def numbers(found: fmtool.stages.check_masks.MaskCheck) -> list[tuple[str, int, float]]:  # type: ignore[name-defined]
    return [(one.name, one.n, one.kept.value) for one in found.controls]


def test_masks_as_they_are_and_no_filter(files: Path) -> None:
    """Images as they are keep their class; fitted masks as often as fit-masks says of the stored ones."""
    model, attack = load(files, "model"), load(files, "fmn")
    for name in ("essential", "adversarial"):
        masks = load(files, name)
        found = fmtool.check_masks(model, attack, masks, draws=2)
        plain, fitted, *controls = found.controls
        assert found.about == name and found.attack == "fmn" and found.n == len(masks["labels"])
        assert plain.name == "no filter" and plain.kept.value == 1 and plain.p is None
        assert fitted.kept.value == pytest.approx(float(masks["preserved_stored"].double().mean()))
        assert fitted.difference is None and fitted.p is None
        assert [one.name for one in controls] == [
            "random places",
            "lowest frequencies",
            "largest magnitudes of the image",
            "mask of another image of the same class",
            "mask of another image of another class",
            "mask of another class as it is, into that class",
        ]
        for one in controls:
            assert one.difference is not None and one.p is not None and 0.001 <= one.p <= 1
            if one.n == found.n:
                assert one.difference.value == pytest.approx(fitted.kept.value - one.kept.value)


def by_magnitude(image: Tensor, mask: Tensor) -> Tensor:
    """One image filtered by its mask's values on its largest magnitudes, written out over the full spectrum (1, 8, 8)."""
    spectrum, values, made = torch.fft.fft2(image)[0], to_full(mask, 8)[0], torch.zeros(8, 8)
    for count in (1, 2):
        seen = [{(r, c), (-r % 8, -c % 8)} for r in range(8) for c in range(8)]
        some = sorted({min(orbit) for orbit in seen if len(orbit) == count}, key=lambda k: -float(spectrum[k].abs()))
        for (r, c), value in zip(some, sorted((float(values[k]) for k in some), reverse=True), strict=True):
            made[r, c] = made[-r % 8, -c % 8] = value
    return torch.fft.ifft2(made * spectrum).real[None]


def test_a_control_against_a_loop_over_images(files: Path) -> None:
    """Values moved to the image's largest magnitudes, one image and one orbit of the full spectrum at a time."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    run = ready_model(model, fmtool.Execution(device="cpu"))
    place = {index: row for row, index in enumerate(attack["index"].tolist())}
    kept = []
    for row, index in enumerate(masks["index"].tolist()):
        image = by_magnitude(attack["images"][place[index]], masks["masks"][row])
        kept.append(int(run.classifier(image[None]).argmax(1)) == int(masks["targets"][row]))
    (found,) = (
        one for one in fmtool.check_masks(model, attack, masks, draws=1).controls if one.name.startswith("largest")
    )
    assert 0 < sum(kept) < len(kept) and found.kept.value == pytest.approx(sum(kept) / len(kept))


def test_a_mask_of_one_value_is_the_same_wherever_it_is_put(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    level = changed(masks, masks=torch.full_like(masks["masks"], 0.5))
    found = fmtool.check_masks(model, attack, level, draws=2)
    assert len({one.kept.value for one in found.controls[1:-1] if one.n == found.n}) == 1  # the last has another target


@pytest.mark.slow
def test_neither_batch_size_nor_the_order_of_rows_changes_anything(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    order = torch.randperm(len(masks["labels"]), generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(masks, tensors={name: tensor[order] for name, tensor in masks.tensors.items()})
    whole = fmtool.check_masks(model, attack, masks, draws=3)
    assert fmtool.check_masks(model, attack, masks, draws=3) == whole
    expected = numbers(whole)
    for other in (
        fmtool.check_masks(model, attack, masks, draws=3, execution=fmtool.Execution(batch_size=8)),
        fmtool.check_masks(model, attack, mixed, draws=3),
    ):
        for (name, n, value), (other_name, other_n, other_value) in zip(expected, numbers(other), strict=True):
            assert (name, n) == (other_name, other_n) and value == pytest.approx(other_value, abs=1e-12), name
    assert numbers(fmtool.check_masks(model, attack, masks, draws=3, seed=1)) != expected


def test_images_without_such_another_are_left_out_of_that_row(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    zeros, ones = ((masks["targets"] == target).nonzero().flatten() for target in (0, 1))
    rows = torch.cat([zeros, ones[:1]])
    few = dataclasses.replace(masks, tensors={name: tensor[rows] for name, tensor in masks.tensors.items()})
    found = fmtool.check_masks(model, attack, few, draws=1)
    assert [one.n for one in found.controls][-3:] == [len(zeros), len(zeros) + 1, len(zeros) + 1]
    alone = dataclasses.replace(masks, tensors={name: tensor[ones[:1]] for name, tensor in masks.tensors.items()})
    found = fmtool.check_masks(model, attack, alone, draws=1)
    for one in found.controls[-3:]:
        assert one.n == 0 and math.isnan(one.kept.value) and one.p is not None and math.isnan(one.p)


def test_class_masks_filter_every_clean_image_by_its_true_classs(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "plain"))
    found = fmtool.check_masks(model, attack, masks, draws=1)
    run = ready_model(model, fmtool.Execution(device="cpu"))
    owner = [masks["classes"].tolist().index(label) for label in attack["labels"].tolist()]
    right = run.classifier(filter_images(attack["images"], masks["masks"][owner])).argmax(1) == attack["labels"]
    plain, fitted, *rest = found.controls
    assert found.about == "class" and found.attack is None and found.n == len(attack["labels"])
    assert plain.kept.value == pytest.approx(float((attack["clean_predictions"] == attack["labels"]).double().mean()))
    assert fitted.kept.value == pytest.approx(float(right.double().mean()))
    assert [one.name for one in rest[-2:]] == [
        "mask of another class as it is",
        "mask of another class as it is, into that class",
    ]
    assert rest[-1].n == rest[-2].n == found.n and len(rest) == 5
    two = {name: tensor[:2] for name, tensor in masks.tensors.items()}
    with pytest.warns(FmtoolWarning, match="of classes without a mask"):
        found = fmtool.check_masks(model, attack, dataclasses.replace(masks, tensors=two), draws=1)
    some = attack["labels"] < 2
    other = masks["masks"][1 - attack["labels"][some]]
    ends = run.classifier(filter_images(attack["images"][some], other)).argmax(1)  # of two masks, the other one
    assert found.n == int(some.sum())
    for control, target in zip(found.controls[-2:], (attack["labels"][some], 1 - attack["labels"][some]), strict=True):
        assert control.kept.value == pytest.approx(float((ends == target).double().mean()))


def test_another_classs_mask_as_it_is_may_turn_an_image_into_that_class(files: Path) -> None:
    """Of two images of two classes, each has the other's mask."""
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    two = torch.tensor([0, int((masks["targets"] != masks["targets"][0]).nonzero()[0])])
    few = dataclasses.replace(masks, tensors={name: tensor[two] for name, tensor in masks.tensors.items()})
    found = fmtool.check_masks(model, attack, few, draws=1)
    places = [attack["index"].tolist().index(index) for index in few["index"].tolist()]
    run = ready_model(model, fmtool.Execution(device="cpu"))
    ends = run.classifier(filter_images(attack["images"][places], few["masks"].flip(0))).argmax(1)
    assert found.controls[-1].name.endswith("into that class")
    assert found.controls[-1].kept.value == pytest.approx(float((ends == few["targets"].flip(0)).double().mean()))


def test_masks_of_absent_images_are_left_out_with_a_warning(files: Path) -> None:
    model, attack, masks = (load(files, name) for name in ("model", "fmn", "essential"))
    fewer = dataclasses.replace(attack, tensors={name: tensor[:20] for name, tensor in attack.tensors.items()})
    with pytest.warns(FmtoolWarning, match="masks are of images that are not in"):
        found = fmtool.check_masks(model, fewer, masks, draws=1)
    assert found.n == int((attack["status"][:20] != 1).sum())


@pytest.mark.slow
def test_what_does_not_belong_together_is_refused(files: Path) -> None:
    model, attack, essential, adversarial, plain = (
        load(files, name) for name in ("model", "fmn", "essential", "adversarial", "plain")
    )
    other = changed(model, **{"linear.bias": model["linear.bias"] + 1})
    with pytest.raises(ArtifactError, match="was made with model"):
        fmtool.check_masks(other, attack, essential)
    assert fmtool.check_masks(
        other, attack, essential, draws=1, execution=fmtool.Execution(allow_other_model=True)
    ).n == len(essential["labels"])
    lopsided = essential["masks"].clone()
    lopsided[0, 0, 1, 0] += 0.25 if float(lopsided[0, 0, 1, 0]) < 0.5 else -0.25
    for masks, pattern in (
        (changed(essential, masks=lopsided), "not symmetric"),
        (changed(essential, masks=essential["masks"] + 1), r"outside \[0, 1\]"),
        (changed(essential, key=essential["key"] + 1), "share no image"),
        (changed(essential, labels=(essential["labels"] + 1) % 10), "label the same images differently"),
        (changed(adversarial, targets=(adversarial["targets"] + 1) % 10), "they belong to another attack file"),
        (dataclasses.replace(adversarial, header={**adversarial.header, "attack": "pgd"}), "masks of PGD's images"),
        (
            dataclasses.replace(essential, header={**essential.header, "image_size": [8, 9]}),
            "the model takes images of",
        ),
        (changed(plain, classes=plain["classes"] + 1), "classes range from 1 to 10"),
    ):
        with pytest.raises(ArtifactError, match=pattern):
            fmtool.check_masks(model, attack, masks)
    with pytest.raises(MaskError, match="--draws 0"):
        fmtool.check_masks(model, attack, essential, draws=0)
    none = {name: tensor[:0] for name, tensor in essential.tensors.items()}
    with pytest.raises(MaskError, match="holds no mask"):
        fmtool.check_masks(model, attack, dataclasses.replace(essential, tensors=none))
