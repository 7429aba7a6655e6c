"""The batches in which a fit advances: narrower ones give the same bits, or are left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fmtool.masks import levels, slots
from fmtool.masks.fitting import FittedMasks, fit_masks
from fmtool.masks.levels import make_levels
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.registry import OBJECTIVES
from fmtool.stages.options import MAX_STEPS, MIN_STEPS

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compile_", "narrower"),
    [(False, {4, 8}), pytest.param(True, {4, 6, 8, 12}, marks=pytest.mark.processes)],
)
def test_the_last_images_go_on_in_a_narrower_batch_to_the_same_bits(
    trained: tuple[nn.Module, Tensor, Tensor],
    compile_: bool,
    narrower: set[int],
    set_threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The images' steps differ; the masks are those of whole batches to the end, for every number of images."""
    classifier, images, labels = trained
    set_threads(2)
    options = FitOptions(0.1, 16, min_steps=60, max_steps=400, tolerance=1e-3, compile_=compile_)
    sizes: list[int] = []
    take_over = slots.Slots.take_over

    def watched(self: slots.Slots, other: slots.Slots) -> None:
        sizes.append(self.options.batch)
        take_over(self, other)

    monkeypatch.setattr(slots.Slots, "take_over", watched)
    narrowed = [fit_masks(classifier, images[:n], labels[:n], options) for n in (1, 5, 21, 37)]
    assert set(sizes) == narrower
    monkeypatch.setattr(levels, "NARROWER", dict.fromkeys(levels.NARROWER, ()))
    whole = fit_masks(classifier, images[:37], labels[:37], options)
    assert len(set(whole.steps.tolist())) > 5
    for n, found in zip((1, 5, 21, 37), narrowed, strict=True):
        for name in FittedMasks.__dataclass_fields__:
            assert torch.equal(getattr(found, name), getattr(whole, name)[:n]), name


class HangsOnItsBatch(nn.Module):
    """Rounds otherwise in another shape of batch."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        score = self.scale * images.mean(dim=(1, 2, 3)) * (1 + 1e-6 * len(images))
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("scale", [1.0, 200.0])  # so sure of the target that its loss is 0
def test_a_network_that_rounds_otherwise_in_a_narrower_batch_keeps_the_whole_one(scale: float, objective: str) -> None:
    images, targets = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    options = FitOptions(0.1, 16, MIN_STEPS, MAX_STEPS, objective=objective)
    made = make_levels(HangsOnItsBatch(scale), images, targets, options, CPU)
    assert made.first.options.batch == 16 and made.narrower(1, 16, int) is made.narrower(1, 16, int) is None


class NeedsMemory(nn.Module):
    """Too much of it for batches of 4."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 4:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        score = images.mean(dim=(1, 2, 3))
        return torch.stack([score, -score], dim=1)


def test_a_narrower_batch_for_which_there_is_no_memory_is_left_out() -> None:
    images, targets = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    made = make_levels(NeedsMemory(), images, targets, FitOptions(0.1, 16, MIN_STEPS, MAX_STEPS), CPU)
    narrower = made.narrower(1, 16, int)
    assert narrower is not None and narrower.options.batch == 8


class HasOneClass(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]


def test_a_network_of_one_class_is_tried_without_a_wrong_one() -> None:
    images, targets = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    found = fit_masks(HasOneClass(), images, targets, FitOptions(0.1, 8, min_steps=3, max_steps=5))
    assert found.preserved.all()
