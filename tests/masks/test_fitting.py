"""The batched half-spectrum fit against the one-image full-spectrum loop, and what must hold exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from half_spectrum import filter_images, fourier, kept_entries, to_full
from reference import fit_one, random_resnet
from torch import Tensor, nn

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.masks.fitting import FittedMasks, fit_masks, perturbed
from fmtool.masks.optimisation import FitOptions
from fmtool.stages.options import MAX_STEPS, MIN_STEPS, default_lambda
from fmtool.tables.masks import masks_table

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9), (9, 6)])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_follows_the_one_image_loop_in_float64(size: tuple[int, int], batch: int) -> None:
    """Equal to 1e-9 over the first 50 steps, for every image, in whatever slot and batch, odd and even widths.

    lambda is large enough that entries would soon meet the clamp, where rounding begins to grow.
    """
    classifier = random_resnet(3, torch.float64)
    images = torch.rand(5, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 3, 7, 3, 9])
    found = fit_masks(classifier, images, targets, FitOptions(0.05, batch, min_steps=0, max_steps=49))
    assert found.steps.tolist() == [50] * 5
    for row in range(5):
        reference = fit_one(classifier, images[row], int(targets[row]), 0.05, min_steps=50, max_steps=49)
        torch.testing.assert_close(to_full(found.masks[row], size[1]), reference.mask, rtol=0, atol=1e-9)
        assert float(found.loss[row]) == pytest.approx(reference.loss, abs=1e-9)
        assert bool(found.preserved[row]) == reference.preserved


@pytest.mark.slow
def test_the_first_fifty_steps_in_float64_on_a_trained_network(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The same on real scans and a trained network, at the lambda of the quickstart."""
    classifier, images, labels = trained
    double, some = _double(classifier), images[:4].double()
    found = fit_masks(double, some, labels[:4], FitOptions(0.1, 4, min_steps=0, max_steps=49))
    for row in range(4):
        reference = fit_one(double, some[row], int(labels[row]), 0.1, min_steps=50, max_steps=49)
        torch.testing.assert_close(to_full(found.masks[row], 8), reference.mask, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_agrees_with_the_loop_after_convergence_within_the_spread_of_two_roundings(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    """Fitting is chaotic: the batched fit may differ from the loop by as much as the loop from itself in another layout.

    Per quantity: its mean over images must lie within the loop's own spread (the two loops' difference and the standard
    error of the paired differences between them), so that a systematic change of the method would show.
    """
    classifier, images, labels = trained
    n = 12
    found = fit_masks(classifier, images[:n], labels[:n], FitOptions(0.1, 16, MIN_STEPS, MAX_STEPS))
    loops = [
        [fit_one(classifier, images[row], int(labels[row]), 0.1, channels_last=layout) for row in range(n)]
        for layout in (False, True)
    ]
    ours = quantities(found)
    plain, other = (np.array([_of_loop(fit) for fit in loop]).T for loop in loops)
    for name, mine, one, two in zip(("steps", "loss", "kept", "preserved"), ours, plain, other, strict=True):
        spread = max(np.abs(one - two).mean(), np.abs(one - two).std(ddof=1) / np.sqrt(n))
        floor = {"steps": 5.0, "loss": 1e-3, "kept": 0.5, "preserved": 1 / n}[name]  # what one image's rounding can do
        assert abs(mine.mean() - one.mean()) <= 3 * spread + floor, name


def quantities(found: FittedMasks) -> list[np.ndarray]:
    """Steps, loss, kept entries and preserved, one array each."""
    kept = kept_entries(found.masks, 8)
    return [np.asarray(values, dtype=float) for values in (found.steps, found.loss, kept, found.preserved)]


def _of_loop(fit: object) -> tuple[float, float, float, float]:
    return fit.steps, fit.loss, float((fit.mask > 1e-3).sum()), float(fit.preserved)  # type: ignore[attr-defined]


def _double(classifier: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(classifier).double()


@pytest.mark.slow
def test_a_mask_is_bitwise_the_same_in_any_slot_beside_any_mates_in_any_order(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    classifier, images, labels = trained
    options = FitOptions(0.1, 16, min_steps=100, max_steps=300)
    whole = fit_masks(classifier, images[:40], labels[:40], options)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    shuffled = fit_masks(classifier, images[order], labels[order], options)
    few = fit_masks(classifier, images[5:9], labels[5:9], options)
    for name in FittedMasks.__dataclass_fields__:
        assert torch.equal(getattr(whole, name)[order], getattr(shuffled, name)), name
        assert torch.equal(getattr(whole, name)[5:9], getattr(few, name)), name


def starts_of(perturb: float, seeds: Sequence[int]) -> Callable[[int], Tensor]:
    """A perturbed start for each row, from a seed of its own."""
    return lambda row: perturbed(fourier(8, 8), 1, perturb, seeds[row])


@pytest.mark.slow
def test_a_perturbed_mask_is_bitwise_the_same_in_any_slot_too(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """And differs from the one that starts at ones, by rounding at first."""
    classifier, images, labels = trained
    options = FitOptions(0.1, 8, min_steps=60, max_steps=150)
    seeds = list(range(20))
    whole = fit_masks(classifier, images[:20], labels[:20], options, starts=starts_of(1e-7, seeds))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled = fit_masks(
        classifier, images[order], labels[order], options, starts=starts_of(1e-7, [seeds[row] for row in order])
    )
    few = fit_masks(classifier, images[5:9], labels[5:9], options, starts=starts_of(1e-7, seeds[5:9]))
    for name in FittedMasks.__dataclass_fields__:
        assert torch.equal(getattr(whole, name)[order], getattr(shuffled, name)), name
        assert torch.equal(getattr(whole, name)[5:9], getattr(few, name)), name
    assert not torch.equal(whole.masks, fit_masks(classifier, images[:20], labels[:20], options).masks)
    soon = FitOptions(0.1, 8, min_steps=0, max_steps=9)
    plain, moved = (
        fit_masks(classifier, images[:8], labels[:8], soon, starts=starts) for starts in (None, starts_of(1e-7, seeds))
    )
    torch.testing.assert_close(moved.masks, plain.masks, rtol=0, atol=1e-5)


def test_starts_of_ones_are_the_default(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    options = FitOptions(0.1, 8, min_steps=20, max_steps=40)
    plain = fit_masks(classifier, images[:9], labels[:9], options)
    ones = fit_masks(classifier, images[:9], labels[:9], options, starts=lambda row: torch.ones(1, 8, 5))
    for name in FittedMasks.__dataclass_fields__:
        assert torch.equal(getattr(plain, name), getattr(ones, name)), name


@pytest.mark.parametrize(("h", "w"), [(8, 8), (9, 9), (9, 6)])
def test_perturbed_starts_are_uniform_and_symmetric(h: int, w: int) -> None:
    """Also in the columns that mirror themselves, where an average of two draws would not be uniform."""
    drawn = torch.stack([(1 - perturbed(fourier(h, w), 3, 0.5, seed)) / 0.5 for seed in range(400)])
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    mirrored = (-torch.arange(h)) % h
    for column in [0, w // 2] if w % 2 == 0 else [0]:
        assert torch.equal(drawn[..., column], drawn[..., mirrored, column])
        assert float(drawn[..., column].std()) == pytest.approx(1 / 12**0.5, abs=0.01)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(perturbed(fourier(h, w), 3, 0.5, 0), perturbed(fourier(h, w), 3, 0.5, 0))


@pytest.mark.slow
def test_perturb_is_drawn_for_each_image_and_recorded(files: Path) -> None:
    """From (seed, key, index), whatever other images are there; without it nothing is drawn and no seed recorded."""
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))

    def fit(**more: float) -> Artifact:
        few = {"lambda_": 0.1, "min_steps": 0, "max_steps": 0}
        return fmtool.fit_masks(model, attack, for_="essential", **few, **more)  # type: ignore[arg-type]

    plain, moved, other = fit(), fit(perturb=0.1), fit(perturb=0.1, seed=1)
    assert plain.header["perturb"] == 0 and "--perturb" not in plain.history[-1]["options"]
    assert moved.header["perturb"] == moved.history[-1]["options"]["--perturb"] == 0.1
    assert "seed" not in plain.history[-1]
    assert (moved.history[-1]["seed"], other.history[-1]["seed"]) == (0, 1)
    assert not torch.equal(moved["masks"], plain["masks"]) and not torch.equal(moved["masks"], other["masks"])
    assert torch.equal(fit(seed=5)["masks"], plain["masks"])
    fewer = fit(perturb=0.1, limit=20)
    rows = [moved["index"].tolist().index(index) for index in fewer["index"].tolist()]
    assert torch.equal(fewer["masks"], moved["masks"][rows])
    for perturb in (-0.1, 1.0, float("nan")):
        with pytest.raises(MaskError, match=r"--perturb .*: expected a number of at least 0 and below 1"):
            fit(perturb=perturb)
    with pytest.warns(FmtoolWarning, match="--perturb 1e-09 is too small"):
        assert torch.equal(fit(perturb=1e-9)["masks"], plain["masks"])
    arrays = {name: tensor.numpy() for name, tensor in moved.tensors.items()}
    assert "started at 1 - 0.1 u" in masks_table(moved.header, arrays).notes[0]
    assert "started" not in masks_table({**plain.header, "perturb": 0}, arrays).notes[0]


@pytest.mark.slow
def test_real_network_and_images_bitwise_and_early_steps(shared_data: Path) -> None:
    """ResNet-20 with its published weights on CIFAR-10 images: the loop's first steps, and slots that change nothing."""
    model = fmtool.import_model(
        str(shared_data / "resnet20-12fca82f.th"), architecture="resnet20", mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    from fmtool.stages.prepare import ready_model

    run = ready_model(model, fmtool.Execution(device="cpu"))
    data = fmtool.load_data(str(shared_data / "cifar10-test-1017.safetensors"), limit=10)
    images, labels = data.pixels(), data.labels
    options = FitOptions(0.5, 16, min_steps=20, max_steps=60)
    one, two = (fit_masks(run.classifier, images[rows], labels[rows], options) for rows in (slice(0, 10), slice(4, 10)))
    assert torch.equal(one.masks[4:], two.masks)
    double = _double(run.classifier)
    found = fit_masks(double, images[:2].double(), labels[:2], FitOptions(0.5, 2, min_steps=0, max_steps=49))
    for row in range(2):
        reference = fit_one(double, images[row].double(), int(labels[row]), 0.5, min_steps=50, max_steps=49)
        torch.testing.assert_close(to_full(found.masks[row], 32), reference.mask, rtol=0, atol=1e-9)


class ReadsOneFrequency(nn.Module):
    """Two logits: the real part of one frequency of one channel, and its negative."""

    def __init__(self, channel: int, row: int, column: int) -> None:
        super().__init__()
        self.place = (channel, row, column)

    def forward(self, images: Tensor) -> Tensor:
        channel, row, column = self.place
        score = torch.fft.fft2(images)[:, channel, row, column].real
        return torch.stack([score, -score], dim=1)


FREQUENCIES = [((8, 8), 3, 2), ((7, 9), 2, 8), ((6, 8), 0, 0), ((8, 8), 5, 4), ((9, 7), 1, 0)]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "row", "column"), FREQUENCIES)
def test_a_classifier_that_reads_one_frequency_keeps_it_and_nothing_else(
    size: tuple[int, int], row: int, column: int
) -> None:
    """The mask keeps that frequency and its mirror image, which is the same one, and is 0 everywhere else."""
    h, w = size
    images = torch.rand(3, 2, h, w, generator=torch.Generator().manual_seed(4))
    classifier = ReadsOneFrequency(1, row, column)
    targets = classifier(images).argmax(1)
    found = fit_masks(classifier, images, targets, FitOptions(1e-3, 4, min_steps=300, max_steps=600))
    expected = torch.zeros(2, h, w, dtype=torch.bool)
    expected[1, row, column] = expected[1, -row % h, -column % w] = True
    full = to_full(found.masks, w)
    assert bool((full[:, expected] > 1e-3).all())
    assert float(full[:, ~expected].max()) == 0
    assert found.preserved.all() and found.preserved_stored.all()


def test_masks_are_symmetric_in_the_columns_that_mirror_themselves(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    masks = fit_masks(classifier, images[:6], labels[:6], FitOptions(0.1, 8, min_steps=50, max_steps=120)).masks
    mirrored = (-torch.arange(8)) % 8
    for column in (0, 4):
        assert torch.equal(masks[..., column], masks[..., mirrored, column])


def test_the_stopping_test_and_the_limit_of_steps(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """e > min_steps is the first step that may stop, e > max_steps the last: 501 and 5,001 with the defaults."""
    classifier, images, labels = trained
    settled = fit_masks(
        classifier, images[:3], labels[:3], FitOptions(0.1, 4, min_steps=30, max_steps=MAX_STEPS, tolerance=1e9)
    )
    assert settled.steps.tolist() == [31] * 3 and bool(settled.converged.all())
    never = fit_masks(classifier, images[:3], labels[:3], FitOptions(0.1, 4, min_steps=0, max_steps=25, tolerance=0))
    assert never.steps.tolist() == [26] * 3 and not bool(never.converged.any())


def test_preserved_is_judged_before_the_last_update_and_stored_after_it(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    classifier, images, labels = trained
    found = fit_masks(classifier, images[:8], labels[:8], FitOptions(0.1, 8, min_steps=0, max_steps=0))
    assert torch.equal(found.preserved, classifier(images[:8]).argmax(1) == labels[:8])  # the first pass sees the image
    after = classifier(filter_images(images[:8], found.masks)).argmax(1) == labels[:8]
    assert torch.equal(found.preserved_stored, after)


def test_default_lambda_is_the_papers_at_both_sizes() -> None:
    assert default_lambda((3, 32, 32), "label") == 0.5
    assert default_lambda((3, 224, 224), "label") == pytest.approx(0.0102, abs=1e-4)
    assert default_lambda((1, 8, 8), "label") == default_lambda((1, 8, 8), "distribution") == 0.5
    assert default_lambda((3, 32, 32), "invariance") == 0.07


def test_no_image_is_an_error() -> None:
    with pytest.raises(MaskError, match="no image is left"):
        fit_masks(nn.Identity(), torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), FitOptions(0.1, 4, 1, 2))


@pytest.mark.requires_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
def test_gpu_agrees_with_the_cpu_over_the_first_steps() -> None:
    classifier = random_resnet(3, torch.float64)
    images, targets = torch.rand(5, 3, 8, 8, dtype=torch.float64), torch.arange(5)
    options = FitOptions(0.05, 4, min_steps=0, max_steps=31)
    here = fit_masks(classifier, images, targets, options)
    there = fit_masks(classifier.cuda(), images, targets, options, torch.device("cuda"))
    torch.testing.assert_close(here.masks, there.masks, rtol=0, atol=1e-9)
