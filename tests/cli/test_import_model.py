"""import-model on checkpoints and on third-party modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_lines import only_row
from conftest import Run
from safetensors.torch import save_file

import fmtool
from fmtool.models.model_files import from_artifact
from fmtool.models.resnet import ResNet


@pytest.mark.slow
def test_published_checkpoint_is_right_on_91_64_percent(run: Run, shared_data: Path, tmp_path: Path) -> None:
    model, data = tmp_path / "model", shared_data / "cifar10-test-1017.safetensors"
    row = only_row(run(
        "import-model", shared_data / "resnet20-12fca82f.th", "--architecture", "resnet20",
        "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "-o", model, "--format", "json",
    ))  # fmt: skip
    assert row == {
        "architecture": "resnet20", "input": "3x32x32", "classes": 10, "normalises": True, "test accuracy %": None,
    }  # fmt: skip
    line = ["attack", model, "--data", data, "--attack", "LinfFastGradientAttack", "--epsilon", "8/255"]
    row = only_row(run(*line, "-o", tmp_path / "attack", "--format", "json"))
    assert row["n"] == 1017 and row["clean accuracy %"] == pytest.approx(100 * 932 / 1017)
    assert fmtool.read(str(model)).header["class_names"] == [str(number) for number in range(10)]


def test_model_file_is_a_checkpoint_too(run: Run, files: Path, tmp_path: Path) -> None:
    line = ["import-model", files / "model.safetensors", "--architecture", "resnet8", "--input-shape", "1,8,8"]
    names = ",".join(f"digit {number}" for number in range(10))
    outcome = run(*line, "--class-names", names, "-o", tmp_path / "model")
    assert (
        outcome.code == 0 and "model.safetensors: is already an fmtool file: only its weights are used" in outcome.err
    )
    old, new = fmtool.read(str(files / "model.safetensors")), fmtool.read(str(tmp_path / "model"))
    assert all(torch.equal(new[name], old[name]) for name in old.tensors)
    assert new.header["class_names"][3] == "digit 3" and new.header["input_shape"] == [1, 8, 8]


def test_fresh_weights_are_drawn_from_the_seed(run: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        line = ["import-model", "resnet8", "--weights", "none", "--input-shape", "1,8,8"]
        assert run(*line, "--seed", seed, "-o", tmp_path / name).code == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


# torchvision ---------------------------------------------------------------------------------------------------------


# Third-party modules -------------------------------------------------------------------------------------------------

THEIRS = """
import torch
from torch import nn
open("imported", "a").close()

class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 5)
    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))

def make():
    print("building")
    torch.manual_seed(5)
    return Theirs()

def probabilities():
    return nn.Sequential(Theirs(), nn.Unflatten(1, (5, 1)))

broken = lambda: Theirs(3)
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A fresh module in the current folder; gives its name. (Python keeps modules, so that each test needs another.)"""
    monkeypatch.chdir(tmp_path)
    name = f"their_package_{abs(hash(tmp_path))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "networks.py").write_text(THEIRS)
    return lambda: f"{name}.networks"


def test_own_module_by_its_factory(theirs: Callable[[], str], run: Run, tmp_path: Path) -> None:
    line = [
        "import-model",
        f"{theirs()}:make",
        "--input-shape",
        "3,9,7",
        "--mean",
        "0.1,0.2,0.3",
        "--std",
        "0.4,0.5,0.6",
    ]
    row = only_row(run(*line, "-o", "model", "--format", "json"))
    assert row["classes"] == 5 and row["input"] == "3x9x7" and row["normalises"] is True
    own = sys.modules[theirs()].make().eval()
    images = torch.rand(4, 3, 9, 7)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    classifier, _ = from_artifact(fmtool.read("model"), factory=f"{theirs()}:make")
    with torch.no_grad():
        assert torch.allclose(classifier(images), own((images - mean) / std), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_own_module_with_weights_from_a_file(theirs: Callable[[], str], run: Run, tmp_path: Path) -> None:
    name = f"{theirs()}:make"
    assert run("import-model", name, "--input-shape", "3,9,7", "-o", "model").code == 0
    weights = {key: tensor + 1 for key, tensor in fmtool.read("model").tensors.items()}
    save_file(weights, "weights.safetensors")
    for source in ([name, "--weights", "weights.safetensors"], ["weights.safetensors", "--architecture", name]):
        assert run("import-model", *source, "--input-shape", "3,9,7", "-o", "filled").code == 0
        filled = fmtool.read("filled")
        assert all(torch.equal(filled[key], weights[key]) for key in weights)


@pytest.mark.processes
def test_what_a_factory_prints_does_not_mix_with_the_file(theirs: Callable[[], str], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "fmtool", "import-model", f"{theirs()}:make", "--input-shape", "3,9,7"]
    found = subprocess.run([*line, "-o", "-"], capture_output=True, check=True, timeout=120)
    (tmp_path / "model").write_bytes(found.stdout)
    assert fmtool.read(str(tmp_path / "model")).header["architecture"] == f"{theirs()}:make"
    assert b"building" in found.stderr


def test_model_file_that_names_a_factory_loads_only_when_told(
    theirs: Callable[[], str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code is forgotten after the import, so that another import would show."""
    name = f"{theirs()}:make"
    assert run("import-model", name, "--input-shape", "3,9,7", "-o", "model").code == 0
    images, labels = torch.rand(6, 3, 9, 7, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    save_file({"images": images, "labels": labels}, "data.safetensors")
    (tmp_path / "imported").unlink()
    monkeypatch.delitem(sys.modules, theirs())
    attack = ["attack", "model", "--data", "data.safetensors", "--attack", "FGSM", "--epsilon", "0.1", "-o", "attack"]
    for more in ([], ["--factory", "collections:Counter"]):
        outcome = run(*attack, *more)
        assert outcome.code == 1 and f"repeat --factory {name} to run it" in outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert run("inspect", "model").code == 0
    assert theirs() not in sys.modules and not (tmp_path / "imported").exists() and not (tmp_path / "attack").exists()
    assert run(*attack, "--factory", name).code == 0
    assert (tmp_path / "imported").exists() and fmtool.read("attack").kind == "attack"


def test_arguments_of_a_factory_are_recorded_and_repeated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"with_arguments_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(
        "from torch import nn\n"
        "def make(width=4, kind='plain'):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    given = ["--factory-option", "width=6", "--factory-option", "kind=a b"]
    assert run("import-model", f"{module}:make", *given, "--input-shape", "1,8,8", "-o", "model").code == 0
    model = fmtool.read("model")
    assert model.header["arguments"] == {"width": 6, "kind": "a b"} and model["1.weight"].shape == (6, 64)
    line = [
        "attack",
        "model",
        "--data",
        "digits",
        "--limit",
        30,
        "--attack",
        "FGSM",
        "--epsilon",
        "0.1",
        "-o",
        "attack",
    ]
    for other in ([], ["--factory-option", "width=7"], given[:2], [*given, "--factory-option", "more=1"]):
        outcome = run(*line, "--factory", f"{module}:make", *other)
        assert outcome.code == 1
        assert f"repeat --factory {module}:make --factory-option 'kind=a b' --factory-option width=6" in outcome.err
    assert run(*line, "--factory", f"{module}:make", *given).code == 0
    assert fmtool.read("attack").history[-1]["options"]["--factory-option"] == {"width": 6, "kind": "a b"}
    assert "goes with package.module:factory" in run("import-model", "resnet8", *given, "-o", "x").err
    assert "expected KEY=VALUE" in run("import-model", f"{module}:make", "--factory-option", "width", "-o", "x").err


def test_classes_of_a_factory_are_kept_and_the_file_is_taken(theirs: Callable[[], str], run: Run) -> None:
    """The header holds how many outputs the network has, not how many are kept."""
    name = f"{theirs()}:make"
    assert run("import-model", name, "--input-shape", "3,9,7", "--keep-classes", "4,0", "-o", "model").code == 0
    header = fmtool.read("model").header
    assert (header["outputs"], header["keep_classes"], header["class_names"]) == (5, [4, 0], ["0", "1"])
    images, labels = torch.rand(6, 3, 9, 7, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    save_file({"images": images, "labels": labels}, "data.safetensors")
    line = ["attack", "model", "--data", "data.safetensors", "--factory", name, "--attack", "FGSM", "--epsilon", "0.1"]
    assert run(*line, "-o", "attack").code == 0


def test_a_last_layer_without_an_axis_is_told(run: Run, files: Path, tmp_path: Path) -> None:
    weights = {**fmtool.read(str(files / "model.safetensors")).tensors, "linear.weight": torch.tensor(1.0)}
    save_file(weights, tmp_path / "weights.safetensors")
    line = ["import-model", tmp_path / "weights.safetensors", "--architecture", "resnet8", "--input-shape", "1,8,8"]
    outcome = run(*line, "-o", tmp_path / "model")
    assert outcome.code == 1 and "the weights don't fit the architecture" in outcome.err


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("probabilities", "expected logits"),
        ("broken", "takes 1 positional argument"),
        ("nothing", "no attribute 'nothing'"),
    ],
)
def test_factory_that_does_not_do_is_told(
    factory: str, message: str, theirs: Callable[[], str], run: Run, tmp_path: Path
) -> None:
    outcome = run("import-model", f"{theirs()}:{factory}", "--input-shape", "3,9,7", "-o", "model")
    assert outcome.code == 1 and message in outcome.err and len(outcome.err.splitlines()) <= 2
    assert "Traceback" not in outcome.err and not (tmp_path / "model").exists()


def test_names_of_classes_lose_the_spaces_around_them_and_none_is_empty(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(ResNet(3, 3, blocks=1, width=8).state_dict(), tmp_path / "weights.th")
    line = ["import-model", tmp_path / "weights.th", "--architecture", "resnet8", "--input-shape", "3,8,8"]
    assert run(*line, "--class-names", "one, two ,three", "-o", tmp_path / "x").code == 0
    assert fmtool.read(str(tmp_path / "x")).header["class_names"] == ["one", "two", "three"]
    for names in ("", "one,,three"):
        outcome = run(*line, "--class-names", names, "-o", tmp_path / "y")
        assert outcome.code == 1 and "--class-names: " in outcome.err and not (tmp_path / "y").exists()
