"""A network whose logits for an image depend on its batch is refused, or run without padding where the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Run
from torch import nn

import fmtool
from fmtool.errors import FmtoolWarning, ModelError
from fmtool.models.classifier import Classifier
from fmtool.models.inspection import depends_on_mates, warn_of_flags

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


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + torch.randn_like(x)).flatten(1)


class Probabilities(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).softmax(1)


class Steps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 8).round().flatten(1)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Noisy, "forward is random"),
        (Probabilities, "outputs are probabilities"),
        (Steps, "6 of 6 random images have a gradient of 0"),
    ],
)
def test_flags_are_told_in_a_line_each(network: type[nn.Module], told: str) -> None:
    with pytest.warns(FmtoolWarning, match=told) as caught:
        warn_of_flags(Classifier(network()).eval(), SHAPE, CPU)
    assert len(caught) == 1
    assert not depends_on_mates(Classifier(network()).eval(), SHAPE, CPU)


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
    assert outcome.code == 1 and "--batch-dependent of attack and fit-masks runs it" in outcome.err
    outcome = run(*attack, "--batch-dependent")
    assert outcome.code == 0 and "batches are not padded" in outcome.err
    made = fmtool.read("attack")
    import importlib

    network = importlib.import_module(module).make().eval()
    with torch.no_grad():
        assert torch.equal(
            made["clean_predictions"], network(made["images"]).argmax(1)
        )  # as one batch, without padding
    with pytest.raises(ModelError, match="--batch-dependent"):
        fmtool.fit_masks(fmtool.read("model"), made, execution=fmtool.Execution(factory=f"{module}:make"))
