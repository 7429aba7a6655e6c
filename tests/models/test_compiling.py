"""Compiled networks: the same numbers, when it is done, and what happens where it can't be."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from compilers import as_it_is, needs_compiler
from dying import Dying
from half_spectrum import to_full
from reference import fit_one, random_resnet
from torch import Tensor, nn

import fmtool
from fmtool.errors import FmtoolWarning, ModelError
from fmtool.masks import levels
from fmtool.masks.fitting import fit_masks
from fmtool.masks.optimisation import FitOptions
from fmtool.models import compiling, training
from fmtool.models.classifier import Classifier
from fmtool.models.registry import ARCHITECTURES

CPU = torch.device("cpu")


def drawn(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(2))
    return images, torch.arange(n) * 3 % 10


@pytest.mark.processes
@needs_compiler
def test_compiled_masks_follow_the_one_image_loop_in_float64() -> None:
    """To 1e-9 over 50 steps, with slots refilled, as the uncompiled ones do."""
    classifier = random_resnet(3, torch.float64)
    images, targets = drawn(7)
    found = fit_masks(classifier, images, targets, FitOptions(0.05, 2, min_steps=0, max_steps=49, compile_=True))
    for row in range(7):
        reference = fit_one(classifier, images[row], int(targets[row]), 0.05, min_steps=50, max_steps=49)
        torch.testing.assert_close(to_full(found.masks[row], 8), reference.mask, rtol=0, atol=1e-9)


@pytest.mark.processes
@needs_compiler
def test_a_compiled_mask_is_bitwise_the_same_in_any_company() -> None:
    classifier = random_resnet(3, torch.float32)
    images, targets = drawn(9, torch.float32)
    options = FitOptions(0.05, 8, min_steps=60, max_steps=120, compile_=True)
    whole, few = (fit_masks(classifier, images[rows], targets[rows], options) for rows in (slice(0, 9), slice(5, 9)))
    assert torch.equal(whole.masks[5:], few.masks) and torch.equal(whole.steps[5:], few.steps)


def test_a_network_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nand more")

    classifier = random_resnet(3, torch.float32)
    images, targets = drawn(3, torch.float32)
    options = FitOptions(0.05, 4, min_steps=3, max_steps=6)
    plain = fit_masks(classifier, images, targets, options)
    monkeypatch.setattr(compiling, "_graph", broken)
    with pytest.warns(FmtoolWarning, match="^the network can't be compiled and runs uncompiled: no compiler$"):
        found = fit_masks(classifier, images, targets, dataclasses.replace(options, compile_=True))
    assert torch.equal(found.masks, plain.masks)


def test_a_narrower_batch_that_cannot_be_compiled_is_left_out_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs compiled all the same, in the batch that it began with."""
    graphs: list[object] = []

    def once(function: object, *_: object) -> object:
        if graphs:
            raise RuntimeError("no compiler")
        graphs.append(function)
        return function

    classifier = random_resnet(3, torch.float32)
    images, targets = drawn(3, torch.float32)
    monkeypatch.setattr(compiling, "_graph", once)
    made = levels.make_levels(classifier, images, targets, FitOptions(0.05, 16, 3, 6, compile_=True), CPU)
    with warnings.catch_warnings(action="error"):
        assert made.first.options.compile_ and made.narrower(1, 16, int) is None


def test_a_network_that_cannot_be_compiled_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def broken(*_: object) -> None:
        tried.append(_)
        raise RuntimeError("no compiler")

    images, targets = drawn(3, torch.float32)
    monkeypatch.setattr(compiling, "_graph", broken)
    with pytest.warns(FmtoolWarning, match="can't be compiled"):
        options = FitOptions(0.05, 16, 3, 6, compile_=True)
        made = levels.make_levels(random_resnet(3, torch.float32), images, targets, options, CPU)
    narrower = made.narrower(1, 16, int)
    assert narrower is not None and not narrower.options.compile_ and len(tried) == 1


def test_no_narrower_batch_is_compiled_where_that_stops_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_graph", lambda function, *_: function)
    monkeypatch.setattr(levels, "COMPILES_BESIDE", "1000.0")
    images, targets = drawn(3, torch.float32)
    options = FitOptions(0.05, 16, 3, 6, compile_=True)
    assert not levels.make_levels(random_resnet(3, torch.float32), images, targets, options, CPU).sizes


def test_a_compiled_network_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = random_resnet(3, torch.float32)
    images, targets = drawn(4, torch.float32)
    monkeypatch.setattr(compiling, "_graph", lambda function, *_: lambda *given: [2 * one for one in function(*given)])
    with pytest.warns(FmtoolWarning, match="computes something else"):
        assert compiling.compiled(compiling.input_gradient(classifier), images, targets, network=classifier) is None


def test_results_are_close_only_with_nan_in_the_same_places() -> None:
    """A window of losses that isn't full holds NaN; a network that gives NaN computes something else."""
    window, nan = torch.tensor([torch.nan, 3.0, 1.0]), torch.full((3,), torch.nan)
    assert compiling.close(window * 1.001, window) and not compiling.close(window * 1.1, window)
    assert not compiling.close(nan, window) and not compiling.close(window, nan)
    assert not compiling.close(torch.tensor([torch.nan, 3.0, 1.0]), torch.tensor([0.0, 3.0, 1.0]))


@pytest.mark.processes
def test_it_is_done_where_there_is_enough_work(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiling.pays(350 * 500, (3, 32, 32)) and not compiling.pays(340 * 500, (3, 32, 32))
    assert not compiling.pays(445 * 500, (1, 8, 8))
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    asked: list[bool] = []
    monkeypatch.setattr(compiling, "compiled", lambda *all_, **more: asked.append(True) or as_it_is(*all_, **more))
    few = {"min_steps": 2, "max_steps": 3}
    for given, expected in ((None, False), (True, True), (False, False)):
        found = fmtool.fit_masks(model, attack, compile_=given, **few)  # type: ignore[arg-type]
        assert found.history[-1]["options"]["--compile"] is expected and bool(asked) is expected
        asked.clear()
    monkeypatch.setattr(compiling, "PAYS_FROM", 2 * 64)
    for stage in (fmtool.fit_masks, fmtool.class_masks):
        assert stage(model, attack, **few).history[-1]["options"]["--compile"] and asked  # type: ignore[operator]
        asked.clear()


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(288, 10))


@pytest.mark.processes
@needs_compiler
@pytest.mark.parametrize("build", [lambda: ARCHITECTURES["resnet8"].build(3, 10), with_dropout])
def test_training_compiled_gives_the_weights_of_training_uncompiled(build: Callable[[], nn.Module]) -> None:
    """Over a few steps, the last of which is a batch of another size and never compiled. Dropout draws what it draws uncompiled;
    else the two forms couldn't be compared, and no network with it would run compiled.
    """
    images, labels = drawn(20, torch.float32)
    recipe = dataclasses.replace(training.RECIPES["paper"], epochs=2, batch=8)
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        classifier = Classifier(build())
        assert training.train(classifier, images, labels, recipe, augment="flip-crop", compile_=compiled) is compiled
        weights.append(list(classifier.parameters())[-2])  # of the last layer
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_training_goes_on_uncompiled_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """To what an uncompiled run gives, though a pass had begun."""
    images, labels = drawn(16, torch.float32)
    recipe = dataclasses.replace(training.RECIPES["paper"], epochs=1, batch=8)
    torch.manual_seed(0)
    plain, classifier = (Classifier(ARCHITECTURES["resnet8"].build(3, 10)) for _ in range(2))
    classifier.load_state_dict(plain.state_dict())

    def broken(batch: Tensor) -> Tensor:
        classifier(batch)
        raise RuntimeError("no compiler")

    assert not training.train(plain, images, labels, recipe)
    monkeypatch.setattr(compiling, "trainable", lambda *_: broken)
    with pytest.warns(FmtoolWarning, match="can't be compiled"):
        assert not training.train(classifier, images, labels, recipe, compile_=True)
    expected = plain.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in classifier.state_dict().items())


class Coarse(nn.Module):
    """Rounds its features in float32 far more than in float64, as where rectifiers switch through rounding."""

    def __init__(self, coarse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.coarse, self.linear, self.last = coarse, nn.Linear(3 * 8 * 8, 16), nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.linear(images.flatten(1))
        return self.head((features + 2**18) - 2**18 if self.coarse else features)  # to multiples of 1/32

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.last(features)
        return logits


@pytest.mark.parametrize(
    ("coarse", "scale", "same"), [(True, 1.0, True), (True, 1.2, False), (False, 1.03, False), (False, 1.0, True)]
)
def test_training_compiles_what_rounds_no_worse_than_the_network(
    coarse: bool, scale: float, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that no form rounds, 3 percent from the network's; and 3 or 20 percent more of them, which is another function."""
    images, labels = drawn(16, torch.float32)
    network = Coarse(coarse)
    monkeypatch.setattr(
        compiling, "trainable", lambda *_: lambda batch: network.head(scale * network.linear(batch.flatten(1)))
    )
    recipe = dataclasses.replace(training.RECIPES["paper"], epochs=1, batch=8)
    with nullcontext() if same else pytest.warns(FmtoolWarning, match="computes something else"):
        assert training.train(Classifier(network), images, labels % 3, recipe, compile_=True) is same


def test_bfloat16_changes_what_the_network_computes_and_not_the_dtypes() -> None:
    classifier: nn.Module = random_resnet(3, torch.float32)
    images, targets = drawn(4, torch.float32)
    strict, rough = (compiling.input_gradient(classifier, name)(images, targets) for name in ("float32", "bfloat16"))
    for one, other in zip(strict, rough, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert 1e-5 < float((one - other).norm() / one.norm()) < compiling.SAME["bfloat16"]


@pytest.mark.slow
def test_precision_is_recorded_and_checked(files: Path) -> None:
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    few = {"min_steps": 2, "max_steps": 3, "execution": fmtool.Execution(device="cpu")}
    found = fmtool.fit_masks(model, attack, precision="bfloat16", **few)  # type: ignore[arg-type]
    assert found.header["precision"] == found.history[-1]["options"]["--precision"] == "bfloat16"
    with pytest.raises(ModelError, match=r"unknown --precision 'bfloat'.*did you mean 'bfloat16'"):
        fmtool.fit_masks(model, attack, precision="bfloat", **few)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="needs a GPU"):
        fmtool.fit_masks(model, attack, precision="tf32", **few)  # type: ignore[arg-type]


def test_a_run_goes_on_in_the_form_that_it_began_in() -> None:
    """Compiled or not, whatever is possible or asked for later: the two forms round differently."""
    for possible in (True, False):
        journal = Dying(())
        assert compiling.as_begun(True, journal) and not compiling.as_begun(False, journal)
        compiling.record_form(possible, True, journal)
        for asked in (True, False):
            again = compiling.as_begun(asked, journal)
            assert again is possible
            compiling.record_form(possible, again, journal)
    began = Dying(())
    compiling.record_form(True, True, began)
    with pytest.raises(
        ModelError, match="this job began compiled, but the network can't be compiled here: resume where it can"
    ):
        compiling.record_form(False, True, began)
