"""import-model on torchvision's networks, with and without weights."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
from command_lines import only_row
from conftest import Run

import fmtool
from fmtool.models.model_files import from_artifact

NETWORK, NO_LINEAR = "shufflenet_v2_x0_5", "squeezenet1_1"


IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of torchvision's weights


@pytest.mark.slow
@pytest.mark.parametrize("name", [NETWORK, NO_LINEAR])
def test_torchvision_name_without_weights(name: str, run: Run, tmp_path: Path) -> None:
    line = ["import-model", name, "--weights", "none", "--input-shape", "3,64,64", "-o", tmp_path / "model"]
    row = only_row(run(*line, "--format", "json"))
    assert row["architecture"] == name and row["input"] == "3x64x64" and row["classes"] == 1000
    assert row["normalises"] is False
    classifier, _ = from_artifact(fmtool.read(str(tmp_path / "model")))
    import torchvision

    torch.manual_seed(0)
    own = torchvision.models.get_model(name, weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(classifier(images), own(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "outputs"), [(NETWORK, 1000), (NETWORK, 7), (NO_LINEAR, 1000)])
@pytest.mark.parametrize("as_source", [True, False])
def test_local_state_dict_of_a_torchvision_network_brings_its_normalisation(
    name: str, outputs: int, as_source: bool, run: Run, tmp_path: Path
) -> None:
    import torchvision

    torch.manual_seed(1)
    own = torchvision.models.get_model(name, weights=None, num_classes=outputs).eval()
    checkpoint = tmp_path / "weights.pth"
    torch.save(own.state_dict(), checkpoint)
    source = [checkpoint, "--architecture", name] if as_source else [name, "--weights", checkpoint]
    outcome = run("import-model", *source, "--input-shape", "3,64,64", "-o", tmp_path / "model")
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if "normalised" in line]
    told = "images are normalised as for torchvision's own weights (--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225)"
    assert f"{checkpoint}: {told}" in line and "or --mean 0,0,0 --std 1,1,1 for images in [0, 1]" in line
    model = fmtool.read(str(tmp_path / "model"))
    assert model.header["mean"] == IMAGENET_MEAN and model.header["std"] == IMAGENET_STD
    assert len(model.header["class_names"]) == outputs
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        assert torch.allclose(from_artifact(model)[0](images), own((images - mean) / std), rtol=1e-4, atol=1e-4)
    (entry,) = model.history[-1]["inputs"]
    assert entry["name"] == "weights.pth" and len(entry["digest"]) == 64


@pytest.mark.slow
def test_normalisation_of_a_local_state_dict_can_be_told_otherwise(run: Run, tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.get_model(NETWORK, weights=None).state_dict(), tmp_path / "weights.pth")
    line = ["import-model", NETWORK, "--weights", tmp_path / "weights.pth", "--input-shape", "3,64,64"]
    outcome = run(*line, "--mean", "0,0,0", "--std", "1,1,1", "-o", tmp_path / "model")
    assert outcome.code == 0 and "normalised" not in outcome.err
    header = fmtool.read(str(tmp_path / "model")).header
    assert header["mean"] == [0, 0, 0] and header["std"] == [1, 1, 1]


@pytest.mark.slow
def test_default_weights_without_network_are_told_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    (tmp_path / "target").mkdir()
    for weights in ([], ["--weights", "default"]):
        outcome = run("import-model", NETWORK, *weights, "-o", tmp_path / "target" / "model")
        assert outcome.code == 1 and outcome.out == ""
        assert outcome.err.splitlines()[-1].startswith(
            f"fmtool: error: {NETWORK}: its default weights can't be downloaded"
        )
        assert "name resolution" in outcome.err and "--weights FILE or --weights none" in outcome.err
        assert "Traceback" not in outcome.err
    assert list((tmp_path / "target").iterdir()) == []
