"""Random starts: drawn for each image from its own seed."""

from __future__ import annotations

import pytest
import torch
from attacking import CPU, attack, by_foolbox
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks
from fmtool.datasets.rows import row_seed


def test_pgd_is_bitwise_equal_to_foolbox_from_the_same_start(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foolbox' own uniform draw is replaced by the start that fmtool drew for each image; nothing else differs."""
    classifier, images, labels = trained
    foolbox = attacks.load_foolbox()
    starts = torch.stack(
        [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(len(images))]
    )
    import eagerpy

    monkeypatch.setattr(
        eagerpy, "uniform",
        lambda like, shape, low, high: eagerpy.astensor((starts * 2 - 1) * high),
    )  # fmt: skip
    direct = by_foolbox(classifier, images, labels, foolbox.attacks.LinfPGD(), 0.2)
    monkeypatch.undo()
    assert torch.equal(attack(classifier, images, labels, "pgd", epsilon=0.2).adversarial, direct)


def test_pgds_start_hangs_on_the_image_alone(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Other mates and another order give the same adversarial image; another seed another one."""
    classifier, images, labels = trained
    made, _ = attacks.build("pgd", {})

    def run(rows: list[int], seed: int) -> Tensor:
        seeds = [row_seed(seed, key=row, index=row) for row in rows]
        return attacks.run(
            classifier, images[rows], labels[rows], made, epsilon=0.2, row_seeds=seeds, batch=16, device=CPU
        ).adversarial

    assert torch.equal(run([3, 4, 5], 0), run([9, 5, 4, 3], 0)[[3, 2, 1]])
    assert not torch.equal(run([3], 0), run([3], 1))
