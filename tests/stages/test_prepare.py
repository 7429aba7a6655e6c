"""A network whose logits for an image depend on its batch is refused, or run without padding where the user says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from torch import nn

import fmtool
from fmtool.errors import ModelError
from fmtool.masks import levels
from fmtool.masks.basis import basis_for
from fmtool.masks.class_fitting import Part, fit_class_masks
from fmtool.masks.fitting import fit_masks
from fmtool.masks.optimisation import FitOptions
from fmtool.masks.two_pass import TwoPass
from fmtool.models.classifier import Classifier, predict

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)

MODULE = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )
"""


def test_batch_dependent_networks_are_refused_unless_allowed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"batch_dependent_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    outcome = run("import-model", f"{module}:make", "--input-shape", "1,8,8", "-o", "model")
    assert outcome.code == 0 and "depend on the other images in its batch" in outcome.err
    line = ["--factory", f"{module}:make", "--data", "digits", "--limit", 30]
    attack = ["attack", "model", *line, "--attack", "FGSM", "--epsilon", "0.2", "-o", "attack"]
    outcome = run(*attack)
    assert outcome.code == 1 and "--batch-dependent runs it all the same" in outcome.err
    outcome = run(*attack, "--batch-dependent")
    assert outcome.code == 0 and "batches are not padded" in outcome.err
    made = fmtool.read("attack")
    import importlib

    network = importlib.import_module(module).make().eval()
    with torch.no_grad():
        assert torch.equal(
            made["clean_predictions"], network(made["images"]).argmax(1)
        )  # as one batch, without padding
    line = ["fit-masks", "model", "attack", "--factory", f"{module}:make", "--for", "essential", "--batch-dependent"]
    outcome = run(*line, "--layer", "2", "-o", "masks")
    assert outcome.code == 1 and "--layer 2: an image's activations would depend on the other images" in outcome.err
    with pytest.raises(ModelError, match="--batch-dependent"):
        fmtool.fit_masks(fmtool.read("model"), made, execution=fmtool.Execution(factory=f"{module}:make"))
    replayed = run("inspect", "--history", "attack")
    assert "--batch-dependent" in replayed.out


def test_slots_of_a_batch_dependent_network_have_a_most_which_is_told_and_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(levels, "LARGEST_UNPADDED", 16)
    module = f"most_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    assert run("import-model", f"{module}:make", "--input-shape", "1,8,8", "-o", "model").code == 0
    few = ["--data", "digits", "--limit", 30, "--min-steps", 2, "--max-steps", 3, "--factory", f"{module}:make"]
    line = ["fit-masks", "model", "--for", "essential", *few, "--batch-dependent", "-o", "masks"]
    told = "at most 16 at a time: using 16\n"
    for batch, ran, said in ((["--batch-size", 20], 16, True), ([], 16, False), (["--batch-size", 8], 8, False)):
        outcome = run(*line, *batch)
        assert outcome.code == 0 and (told in outcome.err) is said, outcome.err
        assert fmtool.read("masks").history[-1]["options"]["--batch-size"] == ran


class Seen(list[tuple[int, int]]):
    """One list for a network and its copies, as each worker thread may run one."""

    def __deepcopy__(self, memo: object) -> Seen:
        return self


class OfSizes(nn.Module):
    """Records how many images come at a time, and how many of them are the first image again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.seen = Seen()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.seen.append((len(x), len(torch.unique(x.flatten(1), dim=0))))
        return self.linear(x.flatten(1) - x.flatten(1).mean(dim=0))


@pytest.mark.parametrize("padded", [False, True])
def test_batches_of_a_fit_hold_the_images_and_nothing_else(padded: bool) -> None:
    torch.manual_seed(0)
    network = OfSizes()
    classifier = Classifier(network).eval().requires_grad_(False)
    classifier.padded = padded
    images, options = torch.rand(5, *SHAPE), FitOptions(0.01, batch=8, min_steps=3, max_steps=30)
    fitted = fit_masks(classifier, images, torch.arange(5), options)
    assert (fitted.steps > 3).all()
    sizes = {size for size, _ in network.seen}
    assert sizes <= {1, 2, 3, 4, 5} if not padded else sizes == {8, 4}
    if not padded:
        assert all(size == distinct for size, distinct in network.seen)
    network.seen.clear()
    part = Part(images, torch.arange(5), torch.zeros(5, dtype=torch.int64))
    fit_class_masks(classifier, [part], [0], options)
    assert {size for size, _ in network.seen} == ({8} if padded else {5})
    network.seen.clear()
    predict(
        TwoPass(classifier, torch.ones(1, 1, 8, 5), torch.tensor([0]), 10, basis_for("fourier", 8, 8)), images, 8, CPU
    )
    assert {size for size, _ in network.seen} == ({8} if padded else {5})


@pytest.mark.slow
def test_every_command_runs_a_batch_dependent_network_or_says_why_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"dependent_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    assert run("import-model", f"{module}:make", "--input-shape", "1,8,8", "-o", "model").code == 0
    factory = ["--factory", f"{module}:make"]
    few, short = ["--data", "digits", "--limit", 30], ["--min-steps", 2, "--max-steps", 3]
    lines: list[list[object]] = [
        ["attack", "model", *few, "--attack", "pgd", "--epsilon", 0.3, "-o", "attack"],
        ["fit-masks", "model", "--for", "essential", *few, *short, "-o", "masks"],
        ["class-masks", "model", "attack", "--robust", *short, "-o", "class"],
        ["defend", "model", "attack", "class", "-o", "defense"],
        ["check-masks", "model", "attack", "masks", "--draws", 1],
        ["attack", "model", *few, "--defense", "class", "--epsilon", 0.3, "-o", "adaptive"],
    ]
    for line in lines:
        refused = run(*line, *factory)
        assert refused.code == 1 and "--batch-dependent runs it" in refused.err, line
        done = run(*line, *factory, "--batch-dependent")
        assert done.code == 0 and "batches are not padded" in done.err, (line, done.err)
    outcome = run(
        "fit-masks",
        "model",
        "--for",
        "essential",
        *few,
        *short,
        *factory,
        "--batch-dependent",
        "--objective",
        "invariance",
        "-o",
        "x",
    )
    assert outcome.code == 1 and "--objective invariance" in outcome.err
    outcome = run(
        "fit-masks", "model", "--for", "essential", *few, *short, *factory, "--batch-dependent", "--compile", "-o", "x"
    )
    assert outcome.code == 1 and "--compile needs batches of one size" in outcome.err
    outcome = run("heatmap", "model", *few, *factory, "-o", "x")
    assert outcome.code == 1 and "heat map fills batches with versions of one image" in outcome.err


@pytest.mark.parametrize(
    ("options", "word"), [({"factory": "a:b"}, "--factory"), ({"factory_options": {"width": 1}}, "--factory-option")]
)
def test_a_factory_for_a_model_that_none_built_is_refused(options: dict[str, Any], word: str, files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:train", limit=20)
    execution = fmtool.Execution(**options)
    message = rf"^{word}: .*model\.safetensors is resnet8, which no factory builds: leave it out$"
    with pytest.raises(ModelError, match=message):
        fmtool.attack(model, data, attack="FGSM", epsilon=0.1, execution=execution)
    with pytest.raises(ModelError, match=message):
        fmtool.train_model(data, from_=model, epochs=1, execution=execution)
