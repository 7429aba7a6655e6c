"""The Makefiles: one graph each, nothing rebuilt that did not change, a target for every result of the paper."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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
def test_nothing_is_rebuilt_when_nothing_has_changed(built: Path) -> None:
    assert commands(make(built, "-n")) == []


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
