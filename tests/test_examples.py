"""The Makefiles: one graph each, nothing rebuilt that did not change, a target for every result of the paper."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fmtool
from fmtool.models.registry import ARCHITECTURES

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MAKEFILE = EXAMPLES / "cifar10" / "Makefile"
IMAGENETTE = EXAMPLES / "imagenette" / "Makefile"
RESULTS = ("models", "table1", "table3", "table4", *(f"figure{number}" for number in (1, 3, 4, 5, 6, 7)))
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str) -> str:
    """What `make ARGUMENTS` prints, with a touch in place of every recipe unless -n is among them."""
    given = ["TRAIN=train.safetensors", "TEST=test.safetensors", "WEIGHTS=weights.th", "OUT=out", *arguments]
    done = subprocess.run(["make", "-f", str(MAKEFILE), *given], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder in which everything stands as if it had just been made, each file newer than what it is made from."""
    for number, name in enumerate(("train.safetensors", "test.safetensors", "weights.th")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number + 1, number + 1))
    (tmp_path / "out").mkdir()
    make(tmp_path, "-t", "all", "table1-train", "table1-both")
    return tmp_path


def commands(printed: str) -> list[str]:
    """The targets that lines of fmtool and of compare.py would make."""
    lines = printed.replace("\\\n", " ").splitlines()
    targets = [
        re.search(r" (?:-o|>) (\S+)", line) for line in lines if line.startswith(("fmtool ", "python3 ", "cd out "))
    ]
    return sorted(target[1].removeprefix("out/") for target in targets if target)


@pytest.mark.processes
def test_from_nothing_everything_is_made_once(tmp_path: Path) -> None:
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    made = commands(make(tmp_path, "-n", "all", "table1-train", "table1-both", "LIMIT=20"))
    assert len(made) == len(set(made)) > 60
    expected = ("model.safetensors", "table1.md", "table4.md", "figure4.pdf", "ceiling.safetensors", "adaptive-pgd.safetensors",
                "both-essential.safetensors", "class-checks.md", "frequencies.csv", "report.html")  # fmt: skip
    assert set(expected) <= set(made)


@pytest.mark.processes
@pytest.mark.parametrize("result", RESULTS)
def test_every_result_of_the_paper_is_a_target(tmp_path: Path, result: str) -> None:
    """That of a figure is a PNG and a PDF, that of a table is printed; help says how long it takes."""
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    printed = make(tmp_path, "-n", result)
    kinds = (".png", ".pdf") if result.startswith("figure") else (".md",)
    for kind in kinds:
        assert f"out/{result}{kind}" in printed
    assert re.search(rf"^{result} +\S.*(second|minute|hour|\d h)", make(tmp_path, "help"), flags=re.MULTILINE)


@pytest.mark.processes
def test_masks_at_layers_and_class_masks_in_bases_are_targets(tmp_path: Path) -> None:
    """Each of its own variables; neither fits the other's masks, nor those of Table 1."""
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    printed = make(tmp_path, "-n", "layers", "LAYERS=input layer3", "LAYER_LIMIT=30")
    assert set(commands(printed)) == {
        "model.safetensors", "fmn.safetensors", "layers.csv", "layers.md", "layers-correlation.md",
        *(f"{what}-at-{layer}.safetensors" for what in ("essential", "adversarial", "correlation", "trimmed")
          for layer in ("input", "layer3")),
    }  # fmt: skip
    assert printed.count("--layer layer3 --limit 30 ") == 2
    printed = make(tmp_path, "-n", "class-bases", "CLASS_BASES=fourier haar", "TRAIN_LIMIT=40")
    assert set(commands(printed)) == {
        "model.safetensors", "fmn.safetensors", "train-fmn.safetensors", "defense-in-bases.safetensors", "class-bases.csv",
        "class-bases.md", "robust-in-fourier.safetensors", "robust-in-haar.safetensors",
    }  # fmt: skip
    assert "--basis haar --limit 200 " in printed
    assert {"layers", "class-bases"} <= {line.split()[0] for line in make(tmp_path, "help").splitlines() if line}


@pytest.mark.processes
def test_figures_3_and_5_show_the_same_images(tmp_path: Path) -> None:
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    lines = [line for line in make(tmp_path, "-n", "figure3", "figure5").splitlines() if "--same-images-as" in line]
    pairs = [re.findall(r"out/(essential|adversarial-fmn)\.safetensors", line) for line in lines]
    assert [pairs[0], pairs[2]] == [["adversarial-fmn", "essential"], ["essential", "adversarial-fmn"]]


@pytest.mark.processes
@pytest.mark.parametrize("target", ["models", "table2", "masks", "all"])
def test_imagenette_has_every_network_and_attack(tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-f", str(IMAGENETTE), "OUT=out", target],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    made = commands(done.stdout)
    assert len(made) == len(set(made))
    for network in ("resnet18", "vit_b_16"):
        assert f"fmtool import-model {network} --weights default" in done.stdout
        attacks = ("fmn", "pgd", "deepfool") if target != "models" else ("fmn",)
        assert {f"{network}/{attack}.safetensors" for attack in attacks} <= set(made)
    if target == "table2":
        assert done.stdout.count("--pool 7") == 8 and "table2.md" in made


@pytest.mark.processes
def test_imagenette_runs_without_a_download(tmp_path: Path) -> None:
    """The packaged network: its factory is repeated to every command that runs it."""
    done = subprocess.run(
        ["make", "-n", "-f", str(IMAGENETTE), "MODELS=efficientnet_lite0", "DATA=sample.zip", "all"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.replace("\\\n", " ").splitlines()
    runs = [line for line in lines if re.match(r"fmtool (attack|fit-masks) ", line)]
    assert {line.split()[1] for line in runs} == {"attack", "fit-masks"}
    for line in runs:
        assert "--factory packaged:efficientnet_lite0" in line
        assert "--data sample.zip:all" in line or "fmn.safetensors" in line or "--for adversarial" in line
    assert "weights" not in done.stdout and "--keep-classes 0,217,482" in done.stdout


@pytest.mark.processes
@pytest.mark.parametrize(("given", "fits"), [([], 5), (["CEILING="], 4)])
def test_imagenettes_table_is_made_without_the_noise_ceiling(tmp_path: Path, given: list[str], fits: int) -> None:
    done = subprocess.run(
        ["make", "-n", "-f", str(IMAGENETTE), "MODELS=efficientnet_lite0", "DATA=sample.zip", *given, "table2"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count("fmtool fit-masks") == fits and done.stdout.count("--perturb") == fits - 4


@pytest.mark.processes
def test_imagenettes_squeezenet_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "squeezenet.safetensors").touch()
    done = subprocess.run(
        ["make", "-n", "-f", str(IMAGENETTE), "MODELS=squeezenet1_1", "WEIGHTS_squeezenet1_1=squeezenet.safetensors", "table2"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "import-model" in line]
    for part in ("import-model squeezenet.safetensors", "--architecture squeezenet1_1", "--mean 0.485,0.456,0.406",
                 "--input-shape 3,224,224", "--keep-classes 0,217,482"):  # fmt: skip
        assert part in line
    assert "train-model" not in done.stdout and "compare.py table2" in done.stdout


@pytest.mark.processes
@pytest.mark.parametrize(
    "target",
    ["rows", "adapted", "bases", "objectives", "subsample", "trim", "trim-ceiling", "classes", "table4-adaptive"],
)
def test_what_goes_beyond_the_paper_is_a_target_too(tmp_path: Path, target: str) -> None:
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    made = commands(make(tmp_path, "-n", target, "ATTACKS=fmn", "ADAPTIVE_LIMIT=100"))
    assert f"{'classes-fmn' if target == 'classes' else target}.md" in made and len(made) == len(set(made))
    assert re.search(rf"^{target} +\S.*(second|minute|hour|\d h)", make(tmp_path, "help"), flags=re.MULTILINE)


@pytest.mark.processes
def test_robust_masks_of_some_attacks_alone(tmp_path: Path) -> None:
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    made = commands(make(tmp_path, "-n", "table4", "class-checks", "figure7", "ATTACKS=fmn pgd", "ROBUST=pgd"))
    assert {"fmn.safetensors", "pgd.safetensors", "robust-pgd.safetensors", "adaptive-pgd.safetensors"} <= set(made)
    assert {"class-checks-pgd.md", "figure7.png"} <= set(made)
    assert not {
        "robust-fmn.safetensors",
        "adaptive-fmn.safetensors",
        "train-fmn.safetensors",
        "class-checks-fmn.md",
    } & set(made)


@pytest.mark.processes
def test_lambda_and_scale_have_a_graph_for_each_pair(tmp_path: Path) -> None:
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    for pair in ("2@0.5", "1@0.25"):
        (tmp_path / "out" / "grid" / pair).mkdir(parents=True)
    make(tmp_path, "-t", "lambda", "GRID=2@0.5 1@0.25")
    for pair in ("2@0.5", "1@0.25"):
        for name in ("model", "fmn", "essential", "adversarial-fmn", "correlation-fmn"):
            assert (tmp_path / "out" / "grid" / pair / f"{name}.safetensors").exists()
    assert (tmp_path / "out" / "lambda.md").exists() and (tmp_path / "out" / "lambda-masks.md").exists()
    (tmp_path / "out" / "scaled-2.safetensors").unlink()
    run = make(tmp_path, "-n", "lambda", "GRID=1@0.25")
    assert "scaled.py" not in run and "fit-masks" not in run  # nothing that stands is made again


@pytest.mark.processes
def test_a_scaled_network_gives_scaled_logits(tmp_path: Path) -> None:
    network = ARCHITECTURES["resnet20"].build(3, 10).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    script = EXAMPLES / "cifar10" / "scaled.py"
    subprocess.run(
        [sys.executable, str(script), "weights.safetensors", "0.5", "half.safetensors"], cwd=tmp_path, check=True
    )
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(images)
        network.load_state_dict(load_file(tmp_path / "half.safetensors"))
        assert torch.equal(network(images), before / 2)
    save_file({"other.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    for name in ("other.safetensors", "weights.th"):
        done = subprocess.run(
            [sys.executable, str(script), name, "2", "x"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.startswith(f"scaled.py: {name}: expected ")


@pytest.mark.processes
@pytest.mark.long
def test_the_first_look_runs_on_images_at_hand(tmp_path: Path, shared_data: Path) -> None:
    """The script on 20 images, by name or as a file: with a file here, since nothing is to be fetched."""
    script = EXAMPLES / "cifar10" / "first-look.sh"
    assert (script.parent / "resnet20-cifar10.safetensors").stat().st_size < 2_000_000
    given = {**os.environ, "IMAGES": "20", "CLASS_IMAGES": "10"}
    done = subprocess.run(
        ["bash", str(script), str(shared_data / "cifar10-test-1017.safetensors")],
        cwd=tmp_path, env=given, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "first-look-output").iterdir()}
    assert {"correlation.safetensors", "defense.safetensors", "filtered.png", "class-masks.png", "report.html"} <= made
    masks = fmtool.read(str(tmp_path / "first-look-output" / "essential.safetensors"), "masks")
    assert 15 <= len(masks["preserved"]) <= 20 and masks["preserved"].float().mean() > 0.7


@pytest.mark.processes
def test_tables_are_copied_for_the_page(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("out/rows.md", "out/rows.csv"):
        (tmp_path / name).write_text(name)
    given = ["-o", "out/rows.md", "results-rows", f"RESULTS={tmp_path}/results", "PREFIX=plain-"]
    make(tmp_path, *given)
    assert (tmp_path / "results" / "plain-rows.csv").read_text() == "out/rows.csv"
    assert (tmp_path / "results" / "plain-rows.md").read_text() == "out/rows.md"


@pytest.mark.processes
def test_what_only_another_target_needs_is_kept(tmp_path: Path) -> None:
    """Hours of masks and attacks: make removes what it takes for an intermediate file."""
    for name in ("train.safetensors", "test.safetensors", "weights.th"):
        (tmp_path / name).touch()
    for targets in (
        ["all", "table1-train", "table1-both"],
        ["table3"],
        ["table4"],
        ["class-bases"],
        ["bases", "objectives"],
    ):
        assert not [line for line in make(tmp_path, "-n", *targets).splitlines() if line.startswith("rm ")]


@pytest.mark.processes
def test_nothing_is_rebuilt_when_nothing_has_changed(built: Path) -> None:
    assert commands(make(built, "-n")) == []


@pytest.mark.processes
def test_an_attack_that_is_named_later_is_made_and_joins_the_table(tmp_path: Path) -> None:
    for number, name in enumerate(("train.safetensors", "test.safetensors", "weights.th")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number + 1, number + 1))
    (tmp_path / "out").mkdir()
    make(tmp_path, "-t", "table1", "ATTACKS=fmn")
    made = commands(make(tmp_path, "-n", "table1", "ATTACKS=fmn pgd"))
    assert made == ["adversarial-pgd.safetensors", "correlation-pgd.safetensors", "pgd.safetensors", "table1.md"]


@pytest.mark.processes
def test_a_new_attack_rebuilds_what_hangs_on_it(built: Path) -> None:
    (built / "out" / "pgd.safetensors").touch()
    os.utime(built / "out" / "pgd.safetensors", (2**31, 2**31))
    assert commands(make(built, "-n")) == [
        "adversarial-pgd.safetensors", "check-pgd.csv", "check-pgd.md", "classes-pgd.safetensors", "correlation-pgd.safetensors",
        "defense.pdf", "defense.png", "defense.safetensors", "figure4.pdf", "figure4.png", "frequencies.csv", "frequencies.md",
        "report.html", "table1.md", "table4.md",
    ]  # fmt: skip


@pytest.mark.processes
def test_new_training_data_leaves_the_test_side_alone_where_the_model_is_imported(built: Path) -> None:
    os.utime(built / "train.safetensors", (2**31, 2**31))
    made = commands(make(built, "-n"))
    assert "plain.safetensors" in made and "train-fmn.safetensors" in made and "defense.safetensors" in made
    assert not {"model.safetensors", "fmn.safetensors", "essential.safetensors", "table1.md"} & set(made)


@pytest.mark.processes
def test_by_default_it_trains_by_the_papers_recipe_on_torchvisions_data(tmp_path: Path) -> None:
    done = subprocess.run(["make", "-n", "-f", str(MAKEFILE)], cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "train-model" in line]
    for expected in ("--data cifar10:train", "--test-data cifar10:test", "--recipe paper", "--architecture resnet20"):
        assert expected in line


STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (["benchmarks/run.sh", "--data", "cifar10:test"], "bases.py --data cifar10:test"),
        (
            ["cifar10/first-look.sh", "cifar10:test", "--data-root", "."],
            "attack first-look-output/model.safetensors --data cifar10:test --data-root . ",
        ),
    ],
)
def test_a_scripts_own_arguments_never_reach_the_setup(tmp_path: Path, script: list[str], expected: str) -> None:
    """Where fmtool has still to be installed. Programs that only log stand in for python and fmtool."""
    root = EXAMPLES.parent
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("*.png", "output*", "*-output"))
    for name in ("pyproject.toml", "tests/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    for name in ("python", "fmtool"):
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv" / "bin" / name).write_text(STUB)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    log = tmp_path / "log"
    subprocess.run(
        ["bash", f"examples/{script[0]}", *script[1:]], cwd=tmp_path, check=True, capture_output=True,
        env={"PATH": "/usr/bin:/bin", "LOG": str(log), "HOME": str(tmp_path)},
    )  # fmt: skip
    lines = log.read_text().splitlines()
    (installed,) = [line for line in lines if " pip install " in line]
    assert installed.endswith(f"--editable {tmp_path}") and any(expected in line for line in lines)
    assert [path.name for path in (tmp_path / ".venv").iterdir() if path.is_file()] == ["installed"]


@pytest.mark.processes
def test_imagenette_takes_weights_and_size_as_they_are_given(tmp_path: Path) -> None:
    def imports(*variables: str) -> list[str]:
        done = subprocess.run(
            ["make", "-n", "-f", str(IMAGENETTE), *variables], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode in (0, 2)
        return [line for line in done.stdout.splitlines() if "import-model" in line] or [done.stderr]

    (line,) = imports("models", "MODELS=squeezenet1_1", "WEIGHTS=none")
    assert "import-model squeezenet1_1 --weights none" in line
    for name, model in (("WEIGHTS_squeezenet1_1", "squeezenet1_1"), ("WEIGHTS_resnet18", "resnet18")):
        (error,) = imports("models", f"MODELS={model}", f"{name}=missing.pth")
        assert "No rule to make target 'missing.pth'" in error
    (tmp_path / "weights.pth").touch()
    (line,) = imports("models", "MODELS=resnet18", "WEIGHTS_resnet18=weights.pth", "SIZE=112")
    assert "import-model resnet18 --weights weights.pth --input-shape 3,112,112" in line


@pytest.mark.processes
def test_imagenettes_figures_are_made_in_both_formats(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "-f", str(IMAGENETTE), "MODELS=resnet18", "figures"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    drawn = [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("fmtool plot")]
    assert sorted(drawn) == ["filtered.pdf", "filtered.png", "mean-mask.pdf", "mean-mask.png"]
