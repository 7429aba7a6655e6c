"""--adapt-lambda: which images are fitted again, with which lambda, and that it changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Run
from half_spectrum import fourier
from torch import Tensor, nn

import fmtool
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.masks.fitting import FittedMasks, fit_masks, perturbed
from fmtool.masks.optimisation import FitOptions
from fmtool.tables.masks import masks_table
from fmtool.tables.spectra import arrays

STEPS = {"min_steps": 100, "max_steps": 150}


@pytest.mark.slow
def test_each_mask_is_the_first_of_its_halvings_that_keeps_the_target(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    """Bitwise what a fit with that lambda alone gives, perturbed starts included, and no larger one keeps the target."""
    classifier, images, labels = trained[0], trained[1][:24], trained[2][:24]

    def start(row: int) -> Tensor:
        return perturbed(fourier(8, 8), 1, 0.1, row)

    adapted = fit_masks(classifier, images, labels, FitOptions(4.0, 8, **STEPS, adapt_lambda=True), starts=start)
    singly = {
        4.0 / 2**k: fit_masks(classifier, images, labels, FitOptions(4.0 / 2**k, 8, **STEPS), starts=start)
        for k in range(9)
    }
    assert bool(adapted.preserved_stored.all()) and bool(adapted.preserved.all())
    used = set(adapted.lambda_.tolist())
    assert len(used) > 2 and max(used) <= 4
    for row, lambda_ in enumerate(adapted.lambda_.tolist()):
        for name in FittedMasks.__dataclass_fields__:
            assert torch.equal(getattr(adapted, name)[row], getattr(singly[lambda_], name)[row]), name
        larger = [value for value in singly if value > lambda_]
        assert not any(bool(singly[value].preserved_stored[row] & singly[value].preserved[row]) for value in larger)


class Stubborn(nn.Module):
    """Says class 0 whatever it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(dim=1, keepdim=True) * 0 + torch.tensor([[1.0, 0.0]])


def test_lambda_is_halved_ten_times_and_no_more() -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 0, 1])
    fitted = fit_masks(Stubborn().eval(), images, targets, FitOptions(1.0, 4, 2, 3, adapt_lambda=True))
    assert fitted.lambda_.tolist() == [2.0**-10, 1.0, 2.0**-10]
    assert fitted.preserved_stored.tolist() == [False, True, False]


@pytest.mark.slow
def test_the_file_says_each_images_lambda(files: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "masks.safetensors"
    outcome = run(
        *("fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", "--limit", 12),
        *("--lambda", 4, "--min-steps", 100, "--max-steps", 150, "--adapt-lambda", "-o", target),
    )
    assert outcome.code == 0, outcome.err
    masks = fmtool.read(str(target), "masks")
    assert masks.header["adapt_lambda"] is True and masks.header["lambda"] == 4
    assert masks["lambda"].dtype == torch.float32 and float(masks["lambda"].min()) < 4
    assert bool(masks["preserved_stored"].all())
    table = masks_table(masks.header, arrays(masks))
    record = dict(zip(table.columns, table.rows[0], strict=True))
    assert record["again %"] == pytest.approx(100 * float((masks["lambda"] < 4).double().mean()))
    assert record["least lambda"] == float(masks["lambda"].min())
    assert "--adapt-lambda" in run("inspect", target, "--history").out
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        split = run(
            *("fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", "--limit", 12),
            *(
                "--lambda",
                4,
                "--min-steps",
                100,
                "--max-steps",
                150,
                "--adapt-lambda",
                "--shard",
                f"{number}/2",
                "-o",
                part,
            ),
        )
        assert split.code == 0, split.err
    assert run("merge", *parts, "-o", tmp_path / "merged").code == 0
    assert (tmp_path / "merged").read_bytes() == target.read_bytes()


def test_without_it_no_column_is_written(files: Path) -> None:
    masks = fmtool.read(str(files / "essential.safetensors"))
    assert "lambda" not in masks.tensors and "adapt_lambda" not in masks.header


@pytest.mark.slow
def test_masks_that_lose_their_class_all_the_same_are_counted(files: Path) -> None:
    """A huge lambda is huge after ten halvings too."""
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    with pytest.warns(FmtoolWarning, match=r"\d+ of 6 masks lose their class even after lambda was halved 10 times"):
        masks = fmtool.fit_masks(
            model, attack, lambda_=1e6, adapt_lambda=True, limit=6, min_steps=100, max_steps=101, basis="pixels"
        )
    lost = ~masks["preserved_stored"]
    assert bool(lost.any()) and masks["lambda"][lost].tolist() == [pytest.approx(1e6 / 1024)] * int(lost.sum())


def test_a_lambda_of_zero_can_not_be_halved(files: Path) -> None:
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    with pytest.raises(MaskError, match="--adapt-lambda halves lambda: expected a --lambda above 0"):
        fmtool.fit_masks(model, attack, lambda_=0.0, adapt_lambda=True)
