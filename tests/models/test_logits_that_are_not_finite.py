"""Images whose logits are NaN or infinite have no class, in every pass; torch's argmax takes NaN for the largest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attacking import attack
from torch import Tensor, nn

from fmtool.attacks.adaptive import run as attack_two_passes
from fmtool.attacks.foolbox import build
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.errors import FmtoolWarning, ModelError, UnclassifiedError
from fmtool.masks.basis import basis_for
from fmtool.masks.fitting import fit_masks
from fmtool.masks.heatmap import Evaluation, distinct_frequencies, sensitivity
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.two_pass import TwoPass
from fmtool.models.classifier import NO_CLASS, Classifier, classes_of, predict
from fmtool.runtime.journal import NO_JOURNAL
from fmtool.runtime.resume_file import resuming
from fmtool.stages.heatmap import means

CPU = torch.device("cpu")
IMAGES = 0.2 + 0.6 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
STEPS: dict[str, Any] = {"steps": 4, "rel_stepsize": 0.25}  # the last one takes dark pixels to 0


class Logarithm(nn.Module):
    """Has no logits for images with a pixel of 0, as such images attacks make; without them its classes are 1 and 2."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        light = (-x.log()).mean(dim=1, keepdim=True) - 0.8
        return torch.cat([0 * light - 9, light, -light], dim=1)


class Standardised(nn.Module):
    """Standardises each image, which divides 0 by 0 in one of a single colour."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return ((x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True))[:, :3]


def logarithm() -> Classifier:
    return Classifier(Logarithm()).eval()


def with_zeros(*rows: int) -> Tensor:
    images = IMAGES.clone()
    images[list(rows), 0, 0, 0] = 0
    return images


def test_nan_and_infinity_are_no_class() -> None:
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[0.0, 1, 2], [0, nan, 2], [nan, nan, nan], [0, inf, 0], [1, 0, -inf]])
    assert classes_of(logits).tolist() == [2] + [NO_CLASS] * 4


def test_clean_images_without_a_class_are_counted_in_one_line() -> None:
    with pytest.raises(
        UnclassifiedError,
        match=r"^clean: the network gives logits that are not finite for 2 of 20 images, first for row 7: leave them out, or "
        "fix the network$",
    ):
        predict(logarithm(), with_zeros(7, 13), 8, CPU, name="clean")
    assert predict(logarithm(), with_zeros(7, 13), 8, CPU, strict=False).eq(NO_CLASS).nonzero().flatten().tolist() == [
        7,
        13,
    ]
    images = IMAGES.clone()
    images[3] = 0.5
    with pytest.raises(ModelError, match="for 1 of 20 images, first for row 3"):
        predict(Classifier(Standardised()).eval(), images, 8, CPU)


@pytest.mark.parametrize(("error", "stays"), [(ModelError, True), (UnclassifiedError, False)])
def test_they_would_end_the_work_again(error: type[ModelError], stays: bool, tmp_path: Path) -> None:
    """So nothing is kept to resume from; other errors of a network may be a device's."""
    with pytest.raises(error), resuming(str(tmp_path / "out"), {}) as journal:
        journal.finish("clean 0", {"values": torch.ones(1)})
        raise error("of the network")
    assert bool(list(tmp_path.iterdir())) == stays


def check_taken_back(adversarial: Tensor, clean: Tensor, predictions: Tensor, status: Tensor, labels: Tensor) -> None:
    zero = (adversarial == 0).flatten(1).any(dim=1)
    assert not zero.any() and (predictions >= 1).all()
    assert torch.equal(status == FAILED, (clean == labels) & (predictions == labels))
    assert torch.equal(adversarial[status == FAILED], IMAGES[status == FAILED])
    assert set(status.tolist()) == {OK, FAILED, WRONG_BEFORE}


def labels_of(network: Classifier) -> Tensor:
    labels = predict(network, IMAGES, 8, CPU)
    labels[0] = 0  # wrong before
    return labels


def test_an_attack_that_ends_there_has_failed() -> None:
    """Class 2 turns into 1 by darkening, down to 0 for some images; class 1 into 2 by brightening."""
    network = logarithm()
    labels = labels_of(network)
    with pytest.warns(
        FmtoolWarning, match="images count as failed attacks: their adversarial images give logits that are not"
    ):
        attacked = attack(network, IMAGES, labels, "pgd", epsilon=0.25, random_start=False, **STEPS)
    check_taken_back(
        *(torch.as_tensor(attacked.adversarial[:]), attacked.clean_predictions, attacked.adversarial_predictions),
        *(attacked.status, labels),
    )


def two_pass(network: Classifier) -> TwoPass:
    basis = basis_for("fourier", 4, 4)
    return TwoPass(network, torch.ones(1, 1, *basis.shape), torch.tensor([1]), 3, basis).eval()


@pytest.mark.filterwarnings("ignore:.*failed attacks:fmtool.errors.FmtoolWarning")
def test_an_adaptive_attack_that_ends_there_has_failed() -> None:
    network = logarithm()
    labels, (made, _) = labels_of(network), build("pgd", {"random_start": False, **STEPS})
    found = attack_two_passes(
        *(two_pass(network), IMAGES, labels, made), epsilon=0.25, restarts=1, batch=8, device=CPU,
        row_seeds=lambda *_: list(range(len(IMAGES))),
    )  # fmt: skip
    result = found.attacked
    check_taken_back(
        *(torch.as_tensor(result.adversarial[:]), result.clean_predictions, result.adversarial_predictions),
        *(result.status, labels),
    )
    assert found.by_two_pass + found.by_class_masks == int((result.status == OK).sum())


def test_two_passes_give_no_class_where_the_first_gives_none() -> None:
    class First(nn.Module):
        """NaN for images with a pixel of 0, in the first pass only."""

        def forward(self, images: Tensor) -> Tensor:
            dark = (images == 0).flatten(1).any(dim=1, keepdim=True)
            return torch.where(dark, torch.nan, images.flatten(1)[:, :3])

    basis = basis_for("fourier", 4, 4)
    masks = torch.zeros(3, 1, *basis.shape)
    masks[:, 0, 0, 0] = 1  # the mean alone, which is not 0
    network = TwoPass(First(), masks, torch.arange(3), 3, basis).eval()
    found = classes_of(network(with_zeros(4, 5)))
    assert (found == NO_CLASS).nonzero().flatten().tolist() == [4, 5]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_mask_whose_image_has_no_class_does_not_keep_it(precision: str) -> None:
    """The target is 0, which argmax gives for NaN."""

    class Dark(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)
            return torch.where(x.mean(dim=1, keepdim=True) > 0.5, torch.nan, x[:, :3])

    images = torch.cat([IMAGES[:2] * 0.2, IMAGES[:2] * 0.2 + 0.6])
    images[:, 0, 0, 0] += 0.2
    options = FitOptions(lambda_=0.01, batch=4, min_steps=2, max_steps=3, precision=precision)
    fitted = fit_masks(Classifier(Dark()).eval(), images, torch.zeros(4, dtype=torch.int64), options)
    for kept in (fitted.preserved, fitted.preserved_stored):
        assert kept.tolist() == [True, True, False, False]


@pytest.mark.filterwarnings("ignore:.*failed attacks:fmtool.errors.FmtoolWarning")
def test_clean_images_without_a_class_are_wrong_before_an_adaptive_attack() -> None:
    network, images = logarithm(), with_zeros(7, 13)
    labels, (made, _) = labels_of(network), build("pgd", {"random_start": False, **STEPS})
    labels[13] = 2  # the class after it is 0
    with pytest.warns(FmtoolWarning) as told:
        found = attack_two_passes(
            *(two_pass(network), images, labels, made), epsilon=0.25, restarts=1, batch=8, device=CPU,
            row_seeds=lambda *_: list(range(len(IMAGES))),
        ).attacked  # fmt: skip
    counts = [line for line in map(str, (one.message for one in told)) if "before" in line]
    assert counts == ["2 of 20 clean images give logits that are not finite: they count as wrong before the attack"]
    assert found.status[[7, 13]].tolist() == [WRONG_BEFORE] * 2
    assert torch.equal(torch.as_tensor(found.adversarial[:])[[7, 13]], images[[7, 13]])
    for predictions in (found.clean_predictions, found.adversarial_predictions):
        assert predictions[[7, 13]].tolist() == [int(labels[7] + 1) % 3, 0] and (predictions >= 0).all()
    failed = int((found.status == FAILED).sum())
    assert any(str(one.message).startswith(f"{failed} images count as failed") for one in told)


def test_clean_images_without_a_class_end_a_heat_map() -> None:
    """They are counted over all blocks of images, of which the journal has one each."""
    asked = Evaluation(logarithm(), 8, CPU, None, NO_JOURNAL)
    many = with_zeros(7, 13).repeat(30, 1, 1, 1)
    with pytest.raises(UnclassifiedError, match=r"^clean images: .* for 60 of 600 images, first for row 7: "):
        sensitivity(asked, many, torch.ones(600, dtype=torch.int64), range(600), 0.1, filters=False)


def test_noise_that_leaves_no_class_is_wrong_and_has_no_loss() -> None:
    asked, labels = Evaluation(logarithm(), 8, CPU, None, NO_JOURNAL), torch.ones(20, dtype=torch.int64)
    told = r"^(\d+) of 200 noisy images give logits that are not finite: they count as wrong, and mean losses leave them out$"
    with pytest.warns(FmtoolWarning, match=told) as caught:
        found = sensitivity(asked, IMAGES, labels, range(20), 1.2, filters=False)
    lost = found.loss.isnan()
    distinct = distinct_frequencies(4, 4)[0]
    assert int(lost[:, distinct[:, 0], distinct[:, 1]].sum()) == int(str(caught[0].message).split()[0])
    assert lost.any() and not lost.all() and found.wrong[lost].all()
    kept = means({"wrong": found.wrong, "loss": found.loss})["mean_loss"]
    y, x = lost.any(dim=0).nonzero()[0].tolist()
    known = found.loss[~lost[:, y, x], y, x].double()
    assert float(kept[y, x]) == pytest.approx(float(known.sum() / len(known)))


def test_filters_that_leave_no_class_are_wrong() -> None:
    """The first low-pass and the first band-pass filter leave the mean alone, which can't be standardised."""

    class Flat(nn.Module):
        """NaN for images of a single colour, whatever the rounding."""

        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)
            return torch.where(x.std(dim=1, keepdim=True) < 1e-4, torch.nan, x[:, :3])

    asked, labels = Evaluation(Classifier(Flat()).eval(), 8, CPU, None, NO_JOURNAL), torch.arange(20) % 3
    with pytest.warns(FmtoolWarning, match=r"^40 of \d+ filtered images give .* finite: they count as wrong$"):
        found = sensitivity(asked, IMAGES, labels, range(20), 0.1, filters=True)
    right = found.filtered_right
    assert not right[:, [0, 2], 0].any() and right.any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_fit_that_meets_no_number_keeps_the_mask_that_it_has(where: str, precision: str) -> None:
    """Its file stays readable for every other stage. The other images take the steps that they take without it."""

    class Undefined(nn.Module):
        """Where the mean lies between 0.4 and 0.65, the loss is NaN, or else its gradient is, that of sqrt at 0."""

        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)
            mean = x.mean(dim=1, keepdim=True)
            inside = (mean > 0.4) & (mean < 0.65)
            lost = torch.nan if where == "loss" else torch.where(inside, mean - mean, mean).sqrt()
            return x[:, :3] + torch.where(inside, lost, 0)

    images = IMAGES[:4] * 0.2 + torch.tensor([0.1, 0.6, 0.1, 0.6]).view(-1, 1, 1, 1)
    targets = torch.zeros(4, dtype=torch.int64)
    options = FitOptions(lambda_=0.5, batch=4, min_steps=40, max_steps=60, tolerance=0, precision=precision)
    fitted = fit_masks(Classifier(Undefined()).eval(), images, targets, options)
    alone = fit_masks(Classifier(Undefined()).eval(), images[::2], targets[::2], options)
    assert fitted.masks.isfinite().all() and fitted.steps.tolist()[::2] == alone.steps.tolist() == [61, 61]
    assert torch.equal(fitted.masks[::2], alone.masks)
    assert (fitted.steps[1::2] < 40).all() and not fitted.converged.any()
    assert (fitted.masks[1::2] < 1).any()
