"""Controls of masks: what they keep exactly, in which order, and the statistics they are compared by."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from half_spectrum import fourier, kept_entries, symmetrise_, to_full
from scipy import stats
from torch import Tensor

from fmtool.masks import controls
from fmtool.masks.controls import (
    difference,
    is_symmetric,
    partners,
    rearranged,
    scattered,
    share,
    sign_flip_p,
)

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


def check_same_values(made: Tensor, masks: Tensor, h: int, w: int) -> None:
    """Values, counts and symmetry are exactly those of the masks, and values stay where they count as often."""
    assert made.shape == masks.shape and is_symmetric(made, fourier(h, w))
    assert np.array_equal(kept_entries(made, w), kept_entries(masks, w))
    assert torch.equal(to_full(made, w).flatten(1).sort().values, to_full(masks, w).flatten(1).sort().values)
    for places, mirrors in fourier(h, w).orbits():
        before, after = (one.flatten(2)[..., places].flatten(1) for one in (masks, made))
        assert torch.equal(after.sort().values, before.sort().values)
        assert torch.equal(made.flatten(2)[..., places], made.flatten(2)[..., mirrors])


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_rearranged_masks_keep_their_values_in_the_order_of_the_scores(h: int, w: int) -> None:
    masks = sparse_masks(5, 3, h, w, 0)
    scores, ties = torch.rand(2, *masks.shape, generator=torch.Generator().manual_seed(1))
    made = rearranged(masks, scores, ties, fourier(h, w))
    check_same_values(made, masks, h, w)
    for places, _ in fourier(h, w).orbits():
        after, score = (one.flatten(2)[..., places].flatten(1) for one in (made, scores))
        in_order = after.gather(1, score.argsort(dim=1, descending=True))
        assert bool((in_order.diff(dim=1) <= 0).all())


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("dense", [1, 4, 8])
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_scattered_masks_keep_their_values_and_depend_on_their_own_generator_alone(
    h: int, w: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "DENSE", dense)
    masks = sparse_masks(5, 3, h, w, 0)
    masks[1] = 0
    made = scattered(masks, generators(range(5)), fourier(h, w))
    check_same_values(made, masks, h, w)
    some = [3, 1, 0]
    assert torch.equal(scattered(masks[some], generators(some), fourier(h, w)), made[some])
    assert not len(scattered(masks[:0], [], fourier(h, w)))


@pytest.mark.parametrize("dense", [1, 8])
def test_every_way_of_scattering_is_as_likely(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values of a 3x3 spectrum, whose entries but one form four orbits in each of two channels: 56 ways, by chi-square."""
    monkeypatch.setattr(controls, "DENSE", dense)
    mask = torch.zeros(2, 3, 2)
    mask[0, 1, 1], mask[1, 0, 1] = 0.5, 1.0
    n = 56 * 100
    made = scattered(mask.expand(n, *mask.shape), generators(range(n)), fourier(3, 3))
    orbits = made.flatten(2)[..., fourier(3, 3).orbits()[1][0]].flatten(1)
    ways = Counter(zip((orbits == 0.5).long().argmax(1).tolist(), (orbits == 1).long().argmax(1).tolist(), strict=True))
    assert len(ways) == 56 and all(half != one for half, one in ways)
    assert stats.chisquare(list(ways.values())).pvalue > 0.001


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


@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_first_places_are_those_of_a_whole_sort(count: int) -> None:
    """By scores with many ties, against NumPy's sort by two keys."""
    draw = torch.Generator().manual_seed(5)
    scores, ties = torch.randint(3, (6, 12), generator=draw).float().numpy(), torch.rand(6, 12, generator=draw).numpy()
    found = controls._first(scores, ties, count)
    expected = [np.lexsort((tie, -score))[:count] for score, tie in zip(scores, ties, strict=True)]
    assert np.array_equal(found, np.stack(expected))


def test_a_mask_of_zeros_has_nothing_to_move() -> None:
    zeros = torch.zeros(2, 3, 8, 5)
    assert torch.equal(rearranged(zeros, torch.rand(zeros.shape), torch.rand(zeros.shape), fourier(8, 8)), zeros)
    assert torch.equal(scattered(zeros, generators(range(2)), fourier(8, 8)), zeros)


def test_intervals_of_differences_stay_among_those_that_are_possible() -> None:
    ones = torch.ones(5)
    less = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5])
    assert difference(ones, less).high == 1.0 and difference(less, ones).low == -1.0


def test_differences_that_are_all_equal_have_no_interval_of_zero_width() -> None:
    """Three images, or 59, of which all masks keep the class and no control does: certain is neither."""
    few, many = difference(torch.ones(3), torch.zeros(3)), difference(torch.ones(59), torch.zeros(59))
    assert few.value == few.high == many.value == 1.0
    assert few.low == pytest.approx(1 - math.sqrt(2) * (1 - share(torch.ones(3)).low)) and few.low < many.low < 0.95
    none = difference(torch.ones(59), torch.ones(59))
    assert none.value == 0 and none.low == -none.high == share(torch.ones(59)).low - 1
