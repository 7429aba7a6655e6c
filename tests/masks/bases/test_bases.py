"""Every basis against a loop over its full mask with autograd, written out, and through the stages."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pywt
import scipy.fft
import torch
import torch.nn.functional as F
from reference import random_resnet
from torch import Tensor, nn

import fmtool
from fmtool.errors import ArtifactError, FmtoolWarning, MaskError
from fmtool.masks.basis import Basis, basis_for
from fmtool.masks.fitting import FittedMasks, fit_masks, perturbed
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.registry import WAVELETS

EVEN, ODD = [(8, 8), (12, 6), (2, 32)], [(7, 9), (8, 5), (1, 4), (9, 8), (1, 5), (4, 2)]
CASES = [
    (name, *size)
    for name in ("fourier", "dct", "pixels", "phase", "haar", "db2", "sym4", "coif1")
    for size in (EVEN if name in WAVELETS else EVEN + ODD)
]
NAMES = list(dict.fromkeys(name for name, *_ in CASES))


def analysis(name: str, n: int) -> np.ndarray:
    """The matrix (n, n) of a one-dimensional transform, by SciPy or PyWavelets."""
    if name == "dct":
        return scipy.fft.dct(np.eye(n), axis=0, norm="ortho")
    if name == "pixels":
        return np.eye(n)
    levels = (n & -n).bit_length() - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of more levels than PyWavelets finds useful
        return np.concatenate(pywt.wavedec(np.eye(n), name, "periodization", level=levels, axis=0))


def filtered(name: str, mask: Tensor, images: Tensor) -> Tensor:
    """Images (n, c, h, w) by one full mask (c, h, w), differentiable by the mask."""
    h, w = images.shape[-2:]
    if name == "fourier":
        return torch.fft.ifft2(mask * torch.fft.fft2(images)).real
    if name == "phase":
        spectra = torch.fft.fft2(images)
        return torch.fft.ifft2(spectra.abs() * torch.exp(1j * mask * spectra.angle())).real
    a, b = torch.tensor(analysis(name, h)), torch.tensor(analysis(name, w))
    return torch.einsum("ij,ncik,kl->ncjl", a, mask * torch.einsum("ij,ncjk,lk->ncil", a, images, b), b)


@pytest.mark.parametrize(("name", "h", "w"), CASES)
def test_a_mask_of_ones_is_the_identity(name: str, h: int, w: int) -> None:
    images = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(0))
    basis = basis_for(name, h, w)
    ones = torch.ones(3, *basis.shape)
    torch.testing.assert_close(basis.filter(images, ones), images, rtol=0, atol=2e-6)
    assert basis.to_full(ones).shape == (3, h, w) and basis.entries == h * w


@pytest.mark.parametrize("name", sorted({*NAMES, "db38", "sym20", "coif17"}))
def test_all_wavelets_keep_norms(name: str) -> None:
    """And the coefficients of a basis hold an image's energy, of the Fourier basis h w times."""
    images = torch.rand(1, 1, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = basis_for(name, 32, 16)
    energy = float((basis.magnitudes(images) ** 2 * basis.weights(torch.float64, images.device)).sum())
    factor = 32 * 16 if name in ("fourier", "phase") else 1
    assert energy == pytest.approx(factor * float((images**2).sum()), rel=1e-9)


@pytest.mark.parametrize(("name", "h", "w"), CASES)
def test_filtering_is_what_the_full_mask_does(name: str, h: int, w: int) -> None:
    basis, draw = basis_for(name, h, w), torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, h, w, dtype=torch.float64, generator=draw)
    mask = basis.symmetrise_(torch.rand(3, *basis.shape, dtype=torch.float64, generator=draw))
    expected = filtered(name, basis.to_full(mask), images)
    torch.testing.assert_close(basis.filter(images, mask), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "h", "w"), [case for case in CASES if case[1] * case[2] > 5])
def test_follows_autograd_over_the_full_mask_for_fifty_steps(name: str, h: int, w: int) -> None:
    classifier = random_resnet(3, torch.float64)
    images = torch.rand(3, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 3, 7])
    options = FitOptions(0.05, 2, min_steps=0, max_steps=49, basis=name)
    fitted = fit_masks(classifier, images, targets, options)
    for row in range(3):
        mask = torch.ones(3, h, w, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([mask], lr=0.01)
        for _ in range(50):
            logits = classifier(filtered(name, mask, images[row : row + 1]))
            loss = F.cross_entropy(logits, targets[row : row + 1]) + 0.05 * mask.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        full = basis_for(name, h, w).to_full(fitted.masks[row])
        torch.testing.assert_close(full, mask.detach(), rtol=0, atol=1e-9)
        assert float(fitted.loss[row]) == pytest.approx(float(loss.detach()), abs=1e-9)


class ReadsOne(nn.Module):
    """Two classes told apart by one coefficient of the image alone: its sine part in the bases of Fourier."""

    def __init__(self, basis: Basis, row: int, column: int) -> None:
        super().__init__()
        self.basis, self.place = basis, (row, column)

    def forward(self, images: Tensor) -> Tensor:
        if self.basis.name in ("fourier", "phase"):
            value = torch.fft.rfft2(images)[:, 0, *self.place].imag
        else:
            value = self.basis.analyse(images)[:, 0, *self.place]
        return 8 * torch.stack([-value, value], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_of_a_classifier_that_reads_one_coefficient_that_one_is_kept(name: str) -> None:
    basis = basis_for(name, 8, 8)
    classifier = ReadsOne(basis, 2, 1).eval()
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    targets = classifier(images).argmax(1)
    fitted = fit_masks(classifier, images, targets, FitOptions(0.01, 4, min_steps=200, max_steps=1500, basis=name))
    assert bool(fitted.preserved_stored.all())
    kept = fitted.masks > 1e-3
    assert bool(kept[:, 0, 2, 1].all())
    assert kept.sum().item() == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_bitwise_the_same_in_any_slot_beside_any_images(
    name: str, trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    classifier, images, labels = trained
    options = FitOptions(0.1, 8, min_steps=60, max_steps=90, basis=name)
    whole = fit_masks(classifier, images[:20], labels[:20], options)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled = fit_masks(classifier, images[order], labels[order], options)
    few = fit_masks(classifier, images[5:9], labels[5:9], options)
    for field in FittedMasks.__dataclass_fields__:
        assert torch.equal(getattr(whole, field)[order], getattr(shuffled, field)), field
        assert torch.equal(getattr(whole, field)[5:9], getattr(few, field)), field


@pytest.mark.parametrize("name", NAMES)
def test_perturbed_starts_are_symmetric(name: str) -> None:
    basis = basis_for(name, 8, 6)
    start = perturbed(basis, 2, 0.5, seed=4)
    assert torch.equal(start, basis.symmetrise_(start.clone())) and 0.5 <= float(start.min()) < float(start.max()) <= 1


@pytest.fixture(scope="module")
def fitted_in(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, fmtool.Artifact]]:
    """Essential and class masks of the digits in a basis."""
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    made: dict[str, dict[str, fmtool.Artifact]] = {}

    def fit(name: str) -> dict[str, fmtool.Artifact]:
        if name not in made:
            steps = {"basis": name, "min_steps": 30, "max_steps": 40}
            made[name] = {
                "essential": fmtool.fit_masks(model, attack, for_="essential", lambda_=0.01, limit=12, **steps),
                "class": fmtool.class_masks(model, attack, robust=True, **steps),
            }
        return made[name]

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dct", "haar", "pixels", "phase"])
def test_all_that_follows_knows_the_basis(
    name: str, files: Path, fitted_in: Callable[[str], dict[str, fmtool.Artifact]]
) -> None:
    from fmtool.plotting.figure import draw
    from fmtool.tables.registry import table_of
    from fmtool.tables.spectra import arrays, source, spectrum_lines

    model, attack = (fmtool.read(str(files / f"{kind}.safetensors")) for kind in ("model", "fmn"))
    masks = fitted_in(name)
    frequencies = basis_for(name, 8, 8).frequencies is not None
    for file in masks.values():
        assert file.header["basis"] == name
        assert name in " ".join(table_of(file.kind, file.header, arrays(file)).notes)
        assert bool(spectrum_lines(source(file))) == frequencies
        check = fmtool.check_masks(model, attack, file, draws=1)
        shares = {control.name: control for control in check.controls}
        assert ("lowest frequencies" in shares) == frequencies
        assert check.entries == 64
        assert draw([file], 4).axes
    assert draw([attack, masks["essential"]], 4).axes
    defended = fmtool.defend(model, [attack], [masks["class"]])
    assert defended.header["columns"][1] == f"robust FMN, {name}"
    two = fmtool.correlate(masks["essential"], masks["essential"], statistics=["cosine"], permutations=3)
    assert two.header["statistics"][0]["observed"] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dct", "haar", "pixels", "phase"])
def test_kept_values_are_the_masks_own_in_the_control(
    name: str, fitted_in: Callable[[str], dict[str, fmtool.Artifact]]
) -> None:
    from fmtool.masks.controls import is_symmetric, rearranged

    own, basis = fitted_in(name)["essential"]["masks"], basis_for(name, 8, 8)
    scores, ties = torch.rand(2, *own.shape, generator=torch.Generator().manual_seed(5))
    moved = rearranged(own, scores, ties, basis)
    assert is_symmetric(moved, basis)
    assert torch.equal(basis.to_full(moved).flatten(1).sort().values, basis.to_full(own).flatten(1).sort().values)


@pytest.mark.slow
def test_files_of_two_bases_are_not_compared(
    files: Path, fitted_in: Callable[[str], dict[str, fmtool.Artifact]]
) -> None:
    fourier = fmtool.read(str(files / "essential.safetensors"))
    for name in ("dct", "phase"):
        with pytest.raises(ArtifactError, match=f"masks in different bases, fourier and {name}"):
            fmtool.correlate(fourier, fitted_in(name)["essential"])


@pytest.mark.parametrize("name", ["dct", "phase"])
def test_only_the_fourier_basis_is_pooled(name: str, fitted_in: Callable[[str], dict[str, fmtool.Artifact]]) -> None:
    masks = fitted_in(name)["essential"]
    with pytest.raises(MaskError, match=f"basis {name} can't be pooled"):
        fmtool.correlate(masks, masks, pool=1)


@pytest.mark.slow
def test_radial_profiles_of_entries_without_frequencies_are_refused(
    fitted_in: Callable[[str], dict[str, fmtool.Artifact]],
) -> None:
    from fmtool.plotting.figure import draw

    with pytest.raises(MaskError, match="basis haar have no radial frequency"):
        draw([fitted_in("haar")["essential"]], 4, "mean-mask")


def test_a_file_whose_masks_do_not_fit_its_basis_is_refused(
    files: Path, fitted_in: Callable[[str], dict[str, fmtool.Artifact]]
) -> None:
    masks = fitted_in("dct")["essential"]
    other = dataclasses.replace(masks, header={**masks.header, "basis": "fourier"})
    model, attack = (fmtool.read(str(files / f"{kind}.safetensors")) for kind in ("model", "fmn"))
    with pytest.raises(ArtifactError, match="the model takes images of"):
        fmtool.check_masks(model, attack, other)


def test_names_that_are_no_basis(files: Path) -> None:
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    for call in (fmtool.fit_masks, fmtool.class_masks):
        with pytest.raises(
            MaskError, match=r"--basis bior1\.3: expected one of fourier, dct, pixels, phase, or an ortho"
        ):
            call(model, attack, basis="bior1.3")
    with pytest.raises(MaskError, match="--basis haar: expected an even height and width, got 7x8"):
        basis_for("haar", 7, 8)


@pytest.mark.slow
def test_a_warning_tells_of_few_masks_that_keep_their_class(files: Path) -> None:
    """Whatever the basis."""
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    with pytest.warns(FmtoolWarning, match="preserve their class"):
        fmtool.fit_masks(model, attack, basis="pixels", lambda_=50.0, limit=6, min_steps=200, max_steps=250)
