"""Networks of timm by name: the model file alone gives timm's own logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import Run

import fmtool
from fmtool.models.model_files import from_artifact

timm = pytest.importorskip("timm")

NAMES = ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050", "efficientnet_b0"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_imported_network_is_timms_own(name: str, run: Run, tmp_path: Path) -> None:
    side = 224 if name.startswith("vit") else 64
    shape = [] if side == 224 else ["--input-shape", f"3,{side},{side}"]
    outcome = run("import-model", f"timm:{name}", "--seed", 5, *shape, "-o", tmp_path / "model", "--format", "json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)["rows"]
    assert row["architecture"] == f"timm:{name}" and row["input"] == f"3x{side}x{side}" and row["classes"] == 1000
    torch.manual_seed(5)
    own = timm.create_model(name).eval()
    config = own.pretrained_cfg
    model = fmtool.read(str(tmp_path / "model"))
    assert model.header["mean"] == list(config["mean"]) and model.header["std"] == list(config["std"])
    images = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = own((images - mean) / std)
        torch.testing.assert_close(from_artifact(model)[0](images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_state_dict_fills_a_network_of_timm_with_other_outputs(run: Run, tmp_path: Path) -> None:
    own = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    torch.save({"state_dict_ema": own.state_dict()}, tmp_path / "weights.pth.tar")
    line = ["import-model", tmp_path / "weights.pth.tar", "--architecture", "timm:mobilenetv3_small_050"]
    assert run(*line, "--input-shape", "3,64,64", "-o", tmp_path / "model").code == 0
    model = fmtool.read(str(tmp_path / "model"))
    assert len(model.header["class_names"]) == 7
    assert all(torch.equal(model[name], tensor) for name, tensor in own.state_dict().items())


@pytest.mark.slow
def test_arguments_are_recorded_and_unknown_names_are_told(run: Run, tmp_path: Path) -> None:
    line = ["import-model", "timm:vit_tiny_patch16_224", "--factory-option", "img_size=32", "--input-shape", "3,32,32"]
    assert run(*line, "-o", tmp_path / "model").code == 0
    assert fmtool.read(str(tmp_path / "model")).header["arguments"] == {"img_size": 32}
    outcome = run("import-model", "timm:resnet188", "-o", tmp_path / "other")
    assert outcome.code == 1 and "unknown network of timm 'resnet188' (did you mean" in outcome.err
    outcome = run("import-model", "timm:hf-hub:someone/net", "-o", tmp_path / "other")
    assert outcome.code == 1 and "unknown network of timm" in outcome.err
    outcome = run("import-model", "resnet8", "--pretrained", "-o", tmp_path / "other")
    assert outcome.code == 1 and "--pretrained goes with timm:NAME" in outcome.err
