"""A network whose logits for an image depend on its batch is refused, or run without padding where the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Run

import fmtool
from fmtool.errors import ModelError

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
