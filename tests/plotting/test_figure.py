"""Which figure fits which files, and pictures that come out the same twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from figures import Load, pictures, with_cosines, with_curves, with_trims

import fmtool
from fmtool.artifacts import streaming
from fmtool.artifacts.streaming import FileTensors
from fmtool.errors import ArtifactError, FmtoolError
from fmtool.masks import radial
from fmtool.plotting.figure import draw, render, save
from fmtool.plotting.registry import FIGURES
from fmtool.tables.attacks import attack_table
from fmtool.tables.spectra import arrays


@pytest.mark.slow
def test_every_figure_is_drawn_and_saved_twice_alike(load: Load, tmp_path: Path) -> None:
    names = ("fmn", "essential", "adversarial", "plain", "defense", "correlation")
    attack, essential, adversarial, plain, defense, correlation = map(load, names)
    curves = with_curves(with_cosines(correlation), "fmn", "class_subsets", "subsample")
    takes = {
        "masks": [essential, adversarial], "filtered": [attack, essential], "class-masks": [plain],
        "mean-mask": [essential, plain], "perturbation": [attack], "radial": [attack, essential], "classes": [curves],
        "subsample": [curves], "trim": [with_trims(correlation)], "null": [curves], "cosine": [curves], "defense": [defense],
        "heatmap": [load("heatmap")], "compare": [load("heatmap"), essential, attack, adversarial],
    }  # fmt: skip
    assert takes.keys() == FIGURES.keys()
    for name, some in takes.items():
        targets = [tmp_path / f"{name}-{number}.svg" for number in range(2)]  # the fastest
        for target in targets:
            save(draw(some, 4, name), str(target))
        assert targets[0].read_bytes() == targets[1].read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_readers_settings_of_matplotlib_change_nothing(form: str, load: Load) -> None:
    """Neither while a figure is made nor while it is rendered, and they are left as they were."""
    files = [load("essential")]
    expected = render(draw(files, 3), form, 80)
    wild = {"axes.grid": True, "savefig.transparent": True, "image.origin": "lower", "font.size": 30, "xtick.top": True}
    with matplotlib.rc_context(wild):
        assert render(draw(files, 3), form, 80) == expected
        assert {name: matplotlib.rcParams[name] for name in wild} == wild


def test_a_files_masks_and_images_are_never_read_whole(
    files: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("fmn", "essential", "adversarial")
    attack, essential, adversarial = (streaming.read_any(str(files / f"{name}.safetensors")) for name in names)
    few: Callable[..., torch.Tensor] = FileTensors.__getitem__

    def small(tensors: FileTensors, name: str) -> torch.Tensor:
        assert len(tensors.rows(name).shape) == 1, name
        return few(tensors, name)

    monkeypatch.setattr(FileTensors, "__getitem__", small)
    monkeypatch.setattr(radial, "BLOCK", 2**12)  # eight images
    for drawn, name in (
        ([essential, adversarial], "masks"), ([attack, essential, adversarial], "filtered"),
        ([essential, adversarial], "mean-mask"), ([attack], "perturbation"), ([attack, essential], "radial"),
    ):  # fmt: skip
        whole = [load(Path(file.name).stem) for file in drawn]
        found, expected = (draw(some, 4, name) for some in (drawn, whole))
        for one, other in zip(pictures(found), pictures(expected), strict=True):
            np.testing.assert_array_equal(one, other)
    assert attack_table(attack.header, arrays(attack)) == attack_table(whole[0].header, arrays(whole[0]))


def test_a_model_of_other_types_is_read_too(files: Path, tmp_path: Path) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    tensors = {name: tensor.half() for name, tensor in model.tensors.items()}
    fmtool.write(replace(model, tensors=tensors), str(tmp_path / "half.safetensors"))
    assert streaming.read_any(str(tmp_path / "half.safetensors")).kind == "model"


def test_smallest_letters_can_be_read_in_print(load: Load) -> None:
    """At the width of a page's text nothing is smaller than 7 points, and no figure is made wider."""
    for some in ([load("essential"), load("adversarial")], [load("fmn")], [load("correlation")], [load("defense")]):
        figure = draw(some, 8)
        texts = figure.findobj(match=lambda one: hasattr(one, "get_fontsize") and bool(one.get_text()))
        assert min(text.get_fontsize() for text in texts) >= 7
        assert figure.get_figwidth() <= 6.8


@pytest.mark.parametrize("name", FIGURES)
def test_a_model_makes_no_picture(name: str, load: Load) -> None:
    model = load("model")
    with pytest.raises(ArtifactError, match=rf"--figure {name}: expected .*, got .*model.safetensors \(model\)"):
        draw([model], 8, name)
    with pytest.raises(ArtifactError, match=r"can't draw .*\(model\): expected masks files; .*one defense file$"):
        draw([model], 8)


@pytest.mark.parametrize(
    ("some", "figure", "message"),
    [
        (["fmn"], "masks", r"--figure masks: expected masks files, got .*fmn.safetensors \(attack\)"),
        (["correlation"], "classes", r"--figure classes: expected correlation files made with --class-subsets"),
        (["fmn"], "cosine", r"--figure cosine: expected one correlation file with the cosine"),
        (["defense", "fmn"], None, r"can't draw .*\(defense\), .*\(attack\): expected"),
        (["correlation", "correlation"], None, r"can't draw .*\(correlation\)"),
        (["fmn"], "mask", r"unknown --figure 'mask' \(did you mean 'masks'\?\)"),
    ],
)
def test_figures_that_do_not_fit(some: list[str], figure: str | None, message: str, load: Load) -> None:
    with pytest.raises(FmtoolError, match=message):
        draw([load(name) for name in some], 8, figure)


def test_any_class_name_can_be_drawn(load: Load, tmp_path: Path) -> None:
    """Also one that the font lacks, and one that would be a broken formula."""
    plain = load("plain")
    file = replace(plain, header={**plain.header, "class_names": ["漢字", r"$\x^$", *plain.header["class_names"][2:]]})
    save(draw([file], 5), str(tmp_path / "masks.svg"))
    assert (tmp_path / "masks.svg").stat().st_size > 1000


def test_any_file_name_can_be_drawn(load: Load) -> None:
    """Also bytes that are not UTF-8, and a dollar sign; names are drawn where files of one purpose stand beside one another."""
    names = ["a\udcff", "b$1$"]
    figure = draw([replace(load("essential"), name=f"{name}.safetensors") for name in names], 8, "mean-mask")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == [r"essential, a\udcff", r"essential, b\$1\$"]
