"""Noise of one frequency and ideal filters: the basis, and classifiers of which one knows what they read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dying import Dying
from torch import Tensor, nn

from fmtool.masks import heatmap
from fmtool.masks.basis import basis_for
from fmtool.masks.heatmap import (
    Evaluation,
    Sensitivity,
    default_norm,
    distinct_frequencies,
    filter_masks,
    sensitivity,
    signs,
    waves,
)
from fmtool.masks.registry import FILTERS, FOURIER
from fmtool.runtime.journal import NO_JOURNAL

SIZES = [(8, 8), (7, 7), (8, 5), (5, 8), (1, 4)]
CPU = torch.device("cpu")


def ask(
    classifier: nn.Module, images: Tensor, labels: Tensor, *, norm: float = 1.0, batch: int = 16, first: int = 0
) -> Sensitivity:
    """With filters; the image in row i has seed first + i."""
    evaluation = Evaluation(classifier, batch, CPU, None, NO_JOURNAL)
    return sensitivity(evaluation, images, labels, range(first, first + len(labels)), norm, filters=True)


class Reads(nn.Module):
    """Class 1 where the coefficients of some frequencies (m, 2), summed over the channels, together exceed a size."""

    def __init__(self, frequencies: list[tuple[int, int]], size: float) -> None:
        super().__init__()
        self.frequencies, self.size = frequencies, size

    def forward(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(images)
        total = sum(spectrum[:, :, row, column].abs().sum(dim=1) for row, column in self.frequencies)
        return torch.stack([torch.full_like(total, self.size), total], dim=1)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_waves_are_an_orthonormal_set_of_one_frequency_each(h: int, w: int) -> None:
    frequencies, inverse = distinct_frequencies(h, w)
    basis = waves(frequencies, h, w).double()
    flat = basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat), dtype=torch.float64), atol=1e-6, rtol=0)
    for number, wave in enumerate(basis):
        filled = torch.fft.rfft2(wave).abs() > 1e-4
        assert torch.equal(filled, inverse == number)
    assert inverse.shape == (h, w // 2 + 1) and len(frequencies) == len(inverse.unique())


def test_default_norm_is_the_published_one_at_both_sizes() -> None:
    assert default_norm(32, 32) == 4.0 and default_norm(224, 224) == pytest.approx(15.7)
    assert default_norm(8, 8) < default_norm(16, 16) < 4


@pytest.mark.parametrize(("h", "w"), SIZES[:4])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_classifier_that_reads_one_frequency_errs_there_and_nowhere_else(h: int, w: int, channels: int) -> None:
    row, column = 2, 1
    images = torch.full((5, channels, h, w), 0.5)
    labels = torch.zeros(5, dtype=torch.int64)
    result = ask(Reads([(row, column)], 0.5), images, labels, norm=1.0)
    expected = torch.zeros(h, w // 2 + 1, dtype=torch.bool)
    expected[row, column] = True
    assert all(torch.equal(wrong, expected) for wrong in result.wrong) and not result.clean_wrong.any()
    assert (result.loss[:, row, column] > result.loss[:, 0, 0]).all()


class Linear(nn.Module):
    """Images (n, c, h, w) to logits x . weights + biases; weights (classes, c, h, w)."""

    def __init__(self, weights: Tensor, biases: list[float]) -> None:
        super().__init__()
        self.weights, self.biases = weights.flatten(1), torch.tensor(biases)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T + self.biases


@pytest.mark.parametrize(("channels", "h", "w"), [(1, 8, 8), (3, 7, 9), (3, 8, 5)])
@pytest.mark.parametrize(("row", "column"), [(1, 0), (2, 1), (0, 2), (6, 0)])
def test_a_linear_classifier_of_one_frequency_is_hot_there_and_nowhere_else(
    channels: int, h: int, w: int, row: int, column: int
) -> None:
    """It reads one channel; in columns that hold their mirror images the heat stands in two rows."""
    reads = torch.zeros(3, channels, h, w)
    reads[1, 0] = waves(torch.tensor([[row, column]]), h, w)[0]
    reads[2] = -reads[1]
    classifier = Linear(reads, [0.5, 0.0, 0.0])  # class 0 unless there is half of the noise, of either sign
    result = ask(classifier, torch.full((4, channels, h, w), 0.5), torch.zeros(4, dtype=torch.int64), norm=1.0)
    expected = torch.zeros(h, w // 2 + 1, dtype=torch.bool)
    expected[row, column] = True
    if column == 0:
        expected[-row % h, 0] = True
    assert all(torch.equal(wrong, expected) for wrong in result.wrong)


def test_a_linear_classifier_of_a_low_frequency_needs_that_alone() -> None:
    """The low-pass filter passes it from 0.125 cycles per pixel on, the high-pass filter up to there."""
    low = waves(torch.tensor([[1, 0]]), 8, 8)[0]
    classifier = Linear(torch.stack([torch.zeros(8, 8), low])[:, None], [0.4, 0.0])
    images = (0.5 + 0.8 * low).expand(3, 1, 8, 8)
    radii = filter_masks(basis_for(FOURIER, 8, 8))[1]
    for right in ask(classifier, images, torch.ones(3, dtype=torch.int64)).filtered_right:
        for passed, expected in zip(right, (radii >= 0.125, radii <= 0.125, radii == 0.125), strict=True):
            assert torch.equal(passed, expected)


@pytest.mark.parametrize(("h", "w"), SIZES[:4])
def test_filters_pass_what_they_say(h: int, w: int) -> None:
    """Only bin 1 is read: the low-pass filter passes it from radius 1 on, the high-pass filter up to it."""
    basis = basis_for(FOURIER, h, w)
    masks, radii = filter_masks(basis)
    assert radii[1] == pytest.approx(1 / min(h, w)) and len(masks) == 3 * len(radii)
    images = 0.5 + 3 * waves(torch.tensor([[0, 1]]), h, w)[:, None] / math.sqrt(h * w)
    result = ask(Reads([(0, 1)], 0.1), images, torch.ones(1, dtype=torch.int64))
    (bin_,) = [place for place in range(len(radii)) if masks[2 * len(radii) + place, 0, 1]]
    low, high, band = result.filtered_right[0]
    places = torch.arange(len(radii))
    assert not result.clean_wrong.any() and 0 < bin_ < len(radii) - 1
    assert torch.equal(low, places >= bin_) and torch.equal(high, places <= bin_) and torch.equal(band, places == bin_)
    sums = masks.reshape(len(FILTERS), len(radii), h, -1)
    assert bool((sums[0, :-1] + sums[1, 1:] == 1).all())  # what one leaves out, the next one of the other keeps
    torch.testing.assert_close(sums[2].sum(dim=0), torch.ones(basis.shape))


class Small(nn.Module):
    def __init__(self, channels: int, h: int, w: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(channels * h * w, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(3 * images.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_loop_gives_the_same(channels: int) -> None:
    """Over every entry of the half spectrum, with waves by numpy's inverse transform."""
    n, h, w, norm = 4, 5, 6, 0.8
    classifier = Small(channels, h, w)
    images = torch.rand(n, channels, h, w, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(n) % 4
    result = ask(classifier, images, labels, norm=norm)
    frequencies, inverse = distinct_frequencies(h, w)
    drawn = [signs(row, len(frequencies), channels) for row in range(n)]
    for row in range(n):
        for y in range(h):
            for x in range(w // 2 + 1):
                full = np.zeros((h, w))
                full[y, x] = 1
                wave = np.fft.ifft2(full).real
                wave /= np.linalg.norm(wave)
                sign = drawn[row][inverse[y, x]][:, None, None]
                noisy = (images[row] + sign * norm * torch.from_numpy(wave).float()).clamp(0, 1)
                logits = classifier(noisy[None]).detach()
                assert float(result.loss[row, y, x]) == pytest.approx(
                    float(F.cross_entropy(logits, labels[row : row + 1])), abs=1e-5
                )
                assert bool(result.wrong[row, y, x]) == (int(logits.argmax()) != int(labels[row]))


def test_nothing_depends_on_the_batch_or_on_other_images() -> None:
    classifier, images = Small(1, 6, 6), torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(9) % 4
    whole = ask(classifier, images, labels, batch=16)
    for batch, start, end in ((8, 0, 9), (32, 0, 9), (16, 3, 7)):
        part = ask(classifier, images[start:end], labels[start:end], batch=batch, first=start)
        for name, values in vars(part).items():
            assert torch.equal(values, getattr(whole, name)[start:end]), name


def test_signs_are_fair_and_fixed_by_the_seed() -> None:
    drawn = signs(3, 2000, 3)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0} and abs(float(drawn.mean())) < 0.05
    assert torch.equal(drawn, signs(3, 2000, 3)) and not torch.equal(drawn, signs(4, 2000, 3))


def test_an_image_with_more_frequencies_than_a_part_is_saved_and_told_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 224x224 the noisy versions of one image take a CPU most of an hour."""
    monkeypatch.setattr(heatmap, "BATCHES", 2)
    images, labels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0])
    asked, told, journal = list[int](), list[tuple[int, int]](), Dying(())

    class Counting(Reads):
        def forward(self, images: Tensor) -> Tensor:
            asked.append(len(images))
            return super().forward(images)

    def run(classifier: nn.Module) -> Sensitivity:
        progress = lambda label, done, total: told.append((done, total))  # noqa: E731
        return sensitivity(
            Evaluation(classifier, 4, CPU, progress, journal), images, labels, range(3), 1.0, filters=True
        )

    network = Counting([(1, 2)], 2.0).eval()
    first = run(network)
    noise = [part for part in journal.parts if part.startswith("noise")]
    assert len(noise) == math.ceil(3 * 34 / 8) and (8, 3 * 34) in told and (3 * 34, 3 * 34) in told
    for part in noise[5:]:
        del journal.parts[part]
    asked.clear()
    again = run(network)
    assert len(asked) == 2 * (len(noise) - 5)  # batches of the rest alone
    whole = ask(network, images, labels, batch=4)
    for one in (first, again):
        assert all(
            torch.equal(getattr(one, name), getattr(whole, name)) for name in ("wrong", "loss", "filtered_right")
        )
