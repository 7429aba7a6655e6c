"""fmtool plot: any artifact becomes a picture, and the same one twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from PIL import Image
from small_files import changed

import fmtool
from fmtool.plotting.registry import FIGURES


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_picture_has_the_same_bytes(suffix: str, files: Path, tmp_path: Path, run: Run) -> None:
    targets = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for target in targets:
        found = run("plot", files / "essential.safetensors", "--count", 3, "-o", target)
        assert found.code == 0, found.err
        assert found.out.strip() == str(target) and found.err == ""
    assert targets[0].read_bytes() == targets[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["fmn", "essential", "plain", "plain robust", "fmn essential", "correlation", "defense", "fmn fmn"],
)
def test_any_kind_is_drawn_without_naming_a_figure(line: str, files: Path, tmp_path: Path, run: Run) -> None:
    found = run("plot", *(files / f"{name}.safetensors" for name in line.split()), "-o", tmp_path / "figure.png")
    assert found.code == 0, found.err
    with Image.open(tmp_path / "figure.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.slow
def test_figure_and_same_images_as(files: Path, tmp_path: Path, run: Run) -> None:
    essential, adversarial = files / "essential.safetensors", files / "adversarial.safetensors"
    assert run("plot", essential, "--figure", "mean-mask", "-o", tmp_path / "mean.png").code == 0
    like = ["--same-images-as", adversarial, "--same-images-as", files / "fmn.safetensors"]
    assert run("plot", essential, *like, "--count", 2, "-o", tmp_path / "a.png").code == 0
    found = run("plot", essential, "--figure", "mean-mask", *like, "-o", tmp_path / "b.png")
    assert found.code == 1 and "--same-images-as goes with figures of single images" in found.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "mean.png"]


def test_what_makes_no_picture_is_one_line(files: Path, tmp_path: Path, run: Run) -> None:
    for line, message in {
        "model": "model.safetensors (model): expected masks files",
        "correlation --figure masks": "--figure masks: expected masks files",
        "fmn --figure pie": "unknown --figure 'pie'",
    }.items():
        name, *more = line.split()
        found = run("plot", files / f"{name}.safetensors", *more, "-o", tmp_path / "figure.png")
        assert found.code == 1 and message in found.err and found.err.count("\n") == 1
    found = run("plot", files / "missing.safetensors", "-o", tmp_path / "figure.gif")
    assert found.code == 1 and "expected a name that ends in .png" in found.err
    assert not list(tmp_path.iterdir())


def test_help_names_every_figure(run: Run) -> None:
    text = "".join(run("plot", "--help").out.split())  # lines may break after a hyphen
    for name, kind in FIGURES.items():
        assert "".join(f"{name} (of {kind.takes}): {kind.text}".split()) in text
    assert "imageswhosemaskspreservetheclassinallfiles" in text


@pytest.mark.slow
def test_masks_that_lost_their_class_are_counted_below_a_mean(files: Path, tmp_path: Path, run: Run) -> None:
    masks = fmtool.read(str(files / "essential.safetensors"))
    preserved = masks["preserved"].clone()
    preserved[:2] = False
    fmtool.write(changed(masks, preserved=preserved), str(tmp_path / "masks"))
    lost, told = int((~preserved).sum()), f"of {len(preserved)} masks lose their class, and count as all others do"
    found = run("plot", tmp_path / "masks", "--figure", "mean-mask", "-o", tmp_path / "mean.png")
    assert found.code == 0 and found.err.count(f": {lost} {told}") == 1
    found = run("plot", tmp_path / "masks", "--figure", "masks", "-o", tmp_path / "grid.png")
    assert found.code == 0 and told not in found.err  # the grid shows none of them
