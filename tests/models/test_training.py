"""Training: augmentation against a written-out loop, recipes, and the last layer alone."""

from __future__ import annotations

import dataclasses
import random
import shutil

import numpy as np
import pytest
import torch
from dying import through
from torch import Tensor, nn

from fmtool.errors import ModelError
from fmtool.models import compiling, training
from fmtool.models.classifier import Classifier
from fmtool.models.foreign_code import seed_generators
from fmtool.models.registry import ARCHITECTURES
from fmtool.models.training import RECIPES, Recipe, augmented
from fmtool.runtime.journal import NO_JOURNAL, Journal


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    """Each augmented image equals one of the 81 windows of the image with 4 black pixels around, mirrored or not."""
    images = torch.randint(1, 256, (30, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for augment in ("crop", "flip-crop"):
        made = augmented(images, augment, torch.Generator().manual_seed(1))
        assert made.shape == images.shape and made.dtype == images.dtype
        mirrored, moved = 0, set()
        for image, result in zip(images, made, strict=True):
            found = [
                (flip, top, left)
                for flip in (False, True)
                for top in range(9)
                for left in range(9)
                if torch.equal(_window(image.flip(-1) if flip else image, top, left), result)
            ]
            assert len(found) == 1
            mirrored += found[0][0]
            moved.add(found[0][1:])
        assert len(moved) > 15
        assert 5 < mirrored < 25 if augment == "flip-crop" else mirrored == 0


def _window(image: torch.Tensor, top: int, left: int) -> torch.Tensor:
    wide = torch.zeros(3, 14, 15, dtype=image.dtype)
    wide[:, 4:10, 4:11] = image
    return wide[:, top : top + 6, left : left + 7]


def test_no_augmentation_is_the_image() -> None:
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(augmented(images, "none", torch.Generator()), images)


def test_a_course_of_a_single_step_takes_it_at_the_full_rate() -> None:
    recipe = dataclasses.replace(RECIPES["paper"], epochs=1)
    optimizer, _ = training._optimizer(nn.Linear(1, 1), recipe, 1)
    assert optimizer.param_groups[0]["lr"] == recipe.learning_rate


def test_the_papers_recipe() -> None:
    """A.2: SGD 0.1 with momentum 0.9 and weight decay 1e-4, a tenth after epochs 100 and 150 of 200, batches of 64."""
    recipe = RECIPES["paper"]
    assert recipe == Recipe("sgd", "steps", 0.1, 1e-4, 200, 64)
    optimizer, scheduler = training._optimizer(nn.Linear(2, 2), recipe, steps=200)
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == rates[99] == 0.1
    assert rates[100] == rates[149] == pytest.approx(0.01)
    assert rates[150] == rates[199] == pytest.approx(0.001)
    assert optimizer.defaults["momentum"] == 0.9


def test_the_heads_recipe_reaches_its_peak_and_falls() -> None:
    """OneCycle stepped per batch: its peak of 0.01 after a tenth of the steps, then down to nearly nothing."""
    optimizer, scheduler = training._optimizer(nn.Linear(2, 2), RECIPES["head"], steps=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.01) and rates.index(max(rates)) == 9
    assert rates[-1] < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20])
def test_one_cycle_of_few_steps(steps: int) -> None:
    """torch's schedule divides by zero where its rise is one step long, as with 10 steps and a rise of a tenth."""
    optimizer, scheduler = training._optimizer(nn.Linear(2, 2), RECIPES["head"], steps)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    assert 0 < optimizer.param_groups[0]["lr"] <= 0.01


class Forgetful(nn.Module):
    """A network with dropout, batch-norm statistics, a weight that is tied to another, and steps counted in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.same = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.same.weight = self.conv.weight
        self.norm, self.dropout, self.linear = nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.register_buffer("steps", torch.zeros(2), persistent=False)
        self.queue = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.steps: Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.conv(images) + self.same(images)).relu().mean(dim=(2, 3))
        if self.training:  # as networks with stochastic depth do
            self.steps += 1
            self.queue.data += 0.5
            hidden = (
                hidden
                * (0.5 + random.random())
                * (0.5 + np.random.rand())
                * (1 + 0.01 * (self.steps + self.queue).sum())
            )
        logits: torch.Tensor = self.linear(self.dropout(hidden))
        return logits


def seeded() -> Forgetful:
    seed_generators(0)
    return Forgetful()


def trained(
    journal: Journal, recipe: Recipe, compile_: bool = False, head: bool = False, network: nn.Module | None = None
) -> dict[str, Tensor]:
    """Weights and buffers after training on 38 images with batches of 8, five an epoch, the last one of 6."""
    seed_generators(0)
    classifier = Classifier(network or (ARCHITECTURES["resnet8"].build(3, 3) if compile_ else Forgetful()))
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (38, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (38,), generator=generator)
    if head:
        training.train_head(classifier, images, labels, recipe, batch=16, seed=3, journal=journal)
    else:
        training.train(
            classifier, images, labels, recipe, augment="flip-crop", seed=3, compile_=compile_, journal=journal
        )
    return classifier.state_dict()


SHORT = {
    "sgd, steps": Recipe("sgd", "steps", 0.1, 1e-4, epochs=4, batch=8),
    "sgd, one-cycle": Recipe("sgd", "one-cycle", 0.2, 5e-4, epochs=4, batch=8),
    "adam, one-cycle": Recipe("adam", "one-cycle", 0.01, 0.0, epochs=4, batch=8, rise=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("recipe", SHORT.values(), ids=SHORT)
def test_a_run_that_is_killed_gives_the_same_weights(
    recipe: Recipe, head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its first step, in a block of augmented images, at its end, at an epoch's end, after the rate fell, at the end."""
    monkeypatch.setattr(training, "AHEAD", 16)  # blocks of two steps, epochs of five
    whole = trained(NO_JOURNAL, recipe, head=head)
    found = through(lambda journal: trained(journal, recipe, head=head), [0, 2, 3, 4, 9, 11, 16, 19])
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        assert torch.equal(found[name], values), name
    other = trained(NO_JOURNAL, dataclasses.replace(recipe, epochs=3), head=head)
    assert not torch.equal(whole["network.linear.weight"], other["network.linear.weight"])


@pytest.mark.processes
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler at hand")
def test_a_compiled_run_that_is_killed_gives_the_same_weights() -> None:
    recipe = SHORT["sgd, one-cycle"]
    whole = trained(NO_JOURNAL, recipe, compile_=True)
    found = through(lambda journal: trained(journal, recipe, compile_=True), [3, 11])
    assert all(torch.equal(found[name], values) for name, values in whole.items())


def test_trying_a_compiled_network_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what training draws, also from Python's and NumPy's generators, nor what the network counts."""
    recipe = SHORT["sgd, steps"]
    forms: list[bool] = []
    monkeypatch.setattr(compiling, "trainable", lambda network, device: lambda images: network(images))
    monkeypatch.setattr(compiling, "record_form", lambda compiled, *_: forms.append(compiled))
    expected, found = (trained(NO_JOURNAL, recipe, compile_=one, network=seeded()) for one in (False, True))
    assert forms == [True]
    assert all(torch.equal(found[name], values) for name, values in expected.items())


@torch.no_grad()
def test_training_needs_no_gradients_from_outside() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = network[1].weight.clone()
    recipe = dataclasses.replace(RECIPES["one-cycle"], epochs=1, batch=2)
    training.train(Classifier(network), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), recipe)
    after = network[1].weight.clone()
    training.train_head(Classifier(network), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), recipe, batch=2)
    assert not torch.equal(before, after) and not torch.equal(after, network[1].weight)


def test_a_last_batch_of_one_image_names_the_option() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 8), nn.BatchNorm2d(2), nn.Flatten())
    recipe = dataclasses.replace(RECIPES["one-cycle"], batch=2)
    with pytest.raises(
        ModelError, match=r"more than 1 value.*\(the last batch holds one image: pass another --batch-size\)$"
    ):
        training.train(Classifier(network), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0]), recipe)
