"""Variants of Foolbox's attacks give the same bits with fewer forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacking import attack, by_foolbox
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "foolbox_class", "options"),
    [
        ("fmn", "LInfFMNAttack", {}),
        ("fmn", "LInfFMNAttack", {"steps": 30}),
        ("deepfool", "LinfDeepFoolAttack", {}),
        ("LinfBasicIterativeAttack", "LinfBasicIterativeAttack", {"steps": 5}),
    ],
)
def test_bitwise_equal_to_foolbox(
    trained: tuple[nn.Module, Tensor, Tensor], name: str, foolbox_class: str, options: dict[str, Any]
) -> None:
    classifier, images, labels = trained
    epsilon = 0.1 if name.startswith("Linf") else None
    found = attack(classifier, images, labels, name, epsilon=epsilon, **options)
    made = getattr(attacks.load_foolbox().attacks, foolbox_class)(**options)
    assert torch.equal(found.adversarial, by_foolbox(classifier, images, labels, made, epsilon))
    assert not torch.equal(found.adversarial, images)


def test_deepfool_takes_one_forward_pass_a_step(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """And the same bits as Foolbox, which takes one for each of 9 classes (`test_bitwise_equal_to_foolbox`)."""
    classifier, images, labels = trained
    passes: list[int] = []
    hook = classifier.register_forward_hook(lambda *_: passes.append(1))
    try:
        made, _ = attacks.build("deepfool", {})
        ours = by_foolbox(classifier, images, labels, made, None)
        mine, passes[:] = len(passes), []
        theirs = by_foolbox(classifier, images, labels, attacks.load_foolbox().attacks.LinfDeepFoolAttack(), None)
    finally:
        hook.remove()
    assert torch.equal(ours, theirs)
    # Foolbox: 2 passes for the start and the result, 9 a step, and one to see that all are done
    assert len(passes) - mine == 8 * ((len(passes) - 3) // 9) > 0
