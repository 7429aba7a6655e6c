"""Images whose gradient leads an attack nowhere: counted, and no reason to end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacking import CPU, attack
from dying import Dying
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks
from fmtool.attacks.gradients import flat_gradients
from fmtool.errors import AttackError, FmtoolWarning


class Contrast(nn.Module):
    """Two classes by brightness, and a contrast whose square root has no gradient where images are of one grey."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean(dim=(1, 2, 3))
        contrast = (images - brightness[:, None, None, None]).square().mean(dim=(1, 2, 3)).sqrt()
        score = self.slope * (0.5 - brightness + 0 * contrast)
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize(("name", "epsilon"), [("fmn", None), ("LinfBasicIterativeAttack", 0.01)])
def test_failed_attacks_on_images_without_a_finite_gradient_are_counted(name: str, epsilon: float | None) -> None:
    """Foolbox returns the image itself, or takes the sign of NaN for 0: such images look robust."""
    images = 0.2 + 0.2 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[1], images[4] = 0.25, 0.125
    options = {"steps": 20} if name == "fmn" else {"random_start": False}
    with pytest.warns(FmtoolWarning, match="^2 failed attacks met gradients that are not finite"):
        found = attack(
            Contrast().eval(), images, torch.zeros(6, dtype=torch.int64), name, epsilon=epsilon, batch=4, **options
        )
    assert found.status[[1, 4]].tolist() == [2, 2]


def test_they_are_counted_after_a_resumption_too() -> None:
    images, journal = torch.tensor([0.25, 0.125])[:, None, None, None].expand(2, 1, 4, 4).clone(), Dying(())
    images[0, 0, 0, 0] = 0.3
    made, _ = attacks.build("fmn", {"steps": 20})
    for _ in range(2):  # the second time from the journal alone
        found = attacks.perturb_(
            *(Contrast().eval(), images.clone(), torch.zeros(2, dtype=torch.int64), torch.arange(2), made),
            epsilon=None, row_seeds=[0, 1], batch=2, device=CPU, journal=journal,
        )  # fmt: skip
        assert found == {1}


def test_gradients_of_zero_and_not_finite_are_flat() -> None:
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[3], labels = 0.25, torch.zeros(5, dtype=torch.int64)
    assert flat_gradients(Contrast().eval(), images, labels, 2, CPU) == 1
    assert flat_gradients(Contrast(0.0).eval(), images, labels, 2, CPU) == 5


def test_a_share_of_images_that_all_fail_is_counted_where_others_are_attacked() -> None:
    images, labels = torch.full((2, 1, 4, 4), 0.25), torch.zeros(2, dtype=torch.int64)
    made, _ = attacks.build("deepfool", {})
    given: Any = (Contrast().eval(), images, labels, made)
    options: dict[str, Any] = {"epsilon": None, "row_seeds": [0, 1], "batch": 4, "device": CPU}
    with pytest.raises(AttackError, match="returned images that are not finite"):
        attacks.run(*given, **options)
    with pytest.warns(FmtoolWarning, match="2 of 2 images count as failed attacks"):
        found = attacks.run(*given, **options, others=True)
    assert found.status.tolist() == [2, 2] and torch.equal(torch.as_tensor(found.adversarial[:]), images)
