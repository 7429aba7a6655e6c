"""Random starts: drawn for each image from its own seed."""

from __future__ import annotations

from typing import Any

import eagerpy
import numpy as np
import pytest
import torch
from attacking import CPU, attack, by_foolbox
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks
from fmtool.attacks.random_starts import starts
from fmtool.datasets.rows import row_seed


def test_pgd_is_bitwise_equal_to_foolbox_from_the_same_start(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foolbox' own uniform draw is replaced by the start that fmtool drew for each image; nothing else differs."""
    classifier, images, labels = trained
    foolbox = attacks.load_foolbox()
    drawn = torch.stack(
        [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(len(images))]
    )
    monkeypatch.setattr(
        eagerpy, "uniform",
        lambda like, shape, low, high: eagerpy.astensor((drawn * 2 - 1) * high),
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


@pytest.mark.parametrize(("norm", "p"), [("l2", 2.0), ("l1", 1.0)])
def test_starts_of_l2_and_l1_attacks_are_uniform_in_the_ball(norm: str, p: float) -> None:
    """A share r^n of the unit ball lies within r, in any direction; Foolbox's own draws are alike."""
    n, many = 12, 4000
    drawn = starts((3, 2, 2), list(range(many)), norm).flatten(1)
    attack, _ = attacks.build(f"{norm.upper()}ProjectedGradientDescentAttack", {})
    assert attacks.norm_of(attack) == norm
    torch.manual_seed(0)
    by_foolbox = attack.get_random_start(eagerpy.astensor(torch.zeros(many, n)), 1.0).raw
    for points in (drawn, by_foolbox):
        within = points.norm(p=p, dim=1) ** n
        assert float(within.max()) <= 1 + 1e-5
        assert abs(float(within.mean()) - 0.5) < 0.02 and abs(float((within < 0.1).float().mean()) - 0.1) < 0.02
        assert float(points.mean(dim=0).abs().max()) < 0.02
    assert float((drawn.std(dim=0) - by_foolbox.std(dim=0)).abs().max()) < 0.02


def test_an_l2_attack_starts_within_its_bound(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    seen: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    attack(classifier, images, labels, "L2ProjectedGradientDescentAttack", epsilon=0.5, steps=1, batch=len(images))
    hook.remove()
    moved = [
        float((one[: len(images)] - images).flatten(1).norm(dim=1).max()) for one in seen if len(one) >= len(images)
    ]
    assert 0.2 < max(moved) <= 0.5 + 1e-4


@pytest.mark.parametrize(("name", "options"), [("PointwiseAttack", {}), ("SpatialAttack", {"grid_search": False})])
def test_attacks_that_draw_from_numpy_are_repeatable(
    name: str, options: dict[str, Any], trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    """And leave its generator as it was."""
    classifier, images, labels = trained
    made, _ = attacks.build(name, options)
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]

    def run(seed: int) -> Tensor:
        few = slice(0, 3)
        return attacks.run(
            classifier, images[few], labels[few], made, epsilon=None, row_seeds=[seed] * 3, batch=4, device=CPU
        ).adversarial

    first = run(0)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    np.random.seed(4)
    assert torch.equal(run(0), first) and not torch.equal(run(1), first)
