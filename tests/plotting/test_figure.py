"""Figures: the numbers that stand in their axes, which figure fits which files, and files that come out the same twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

import fmtool
from fmtool.artifacts import streaming
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.streaming import FileTensors
from fmtool.errors import ArtifactError, FmtoolError, FmtoolWarning
from fmtool.masks import radial
from fmtool.masks.spectrum import filter_images, shifted, to_full
from fmtool.plotting.figure import draw, render, save
from fmtool.plotting.grids import chosen
from fmtool.plotting.registry import FIGURES
from fmtool.tables.attacks import attack_table
from fmtool.tables.spectra import arrays

Load = Callable[[str], Artifact]


@pytest.fixture
def load(files: Path) -> Load:
    """A shared file by its name."""
    return lambda name: fmtool.read(str(files / f"{name}.safetensors"))


def pictures(figure: Any) -> list[np.ndarray]:
    """What the figure's cells show, row by row, without the colour bar."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def lines(axes: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The data of an axes' lines."""
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]


def row_of(file: Artifact, key: int) -> int:
    """Where a file holds an image."""
    return int(file["key"].tolist().index(key))


# Grids ----------------------------------------------------------------------------------------------------------------


def test_mask_grids_show_the_same_images_with_the_zero_frequency_in_the_centre(load: Load) -> None:
    essential, adversarial = load("essential"), load("adversarial")
    figure = draw([essential, adversarial], 5)
    shown = pictures(figure)
    assert len(shown) == 10
    picked = chosen([essential, adversarial], 5)
    for column in range(5):
        key = int(essential["key"][picked[0][column]])
        for row, file in enumerate((essential, adversarial)):
            mask = shifted(file["masks"][row_of(file, key)], 8)[0]
            np.testing.assert_array_equal(shown[5 * row + column], mask.numpy())
    labels = [int(essential["labels"][row]) for row in picked[0]]
    assert len(set(labels)) == 5 and labels == sorted(labels)
    assert [axes.get_title() for axes in figure.axes[:5]] == [str(label) for label in labels]


def part_of(file: Artifact, rows: torch.Tensor) -> Artifact:
    """Some rows of a file, in this order."""
    return replace(file, tensors={name: tensor[rows] for name, tensor in file.tensors.items()})


def test_figures_made_apart_show_the_same_images(load: Load) -> None:
    """Figure 3 of essential masks alone, Figure 5 of adversarial ones, of which some are missing, in another order."""
    essential, whole = load("essential"), load("adversarial")
    adversarial = part_of(whole, torch.arange(len(whole["key"])).flip(0)[::2])
    places = [chosen([essential], 6, [adversarial])[0], chosen([adversarial], 6, [essential])[0]]
    keys = [file["key"][rows].tolist() for file, rows in zip((essential, adversarial), places, strict=True)]
    assert keys[0] == keys[1] and len(set(keys[0])) == 6
    shown = pictures(draw([adversarial], 6, like=[essential]))
    for picture, key in zip(shown, keys[0], strict=True):
        mask = shifted(adversarial["masks"][row_of(adversarial, key)], 8)[0]
        np.testing.assert_array_equal(picture, mask.numpy())
    assert essential["key"][chosen([essential], 6)[0]].tolist() != keys[0]  # or this would show nothing


def test_only_masks_that_keep_their_class_are_shown(load: Load) -> None:
    """In the files drawn and in those that only limit them, so that figures made apart still show the same images."""
    attack, essential, adversarial = (load(name) for name in ("fmn", "essential", "adversarial"))
    essential["preserved"][:], adversarial["preserved"][:] = True, True
    first = chosen([essential, adversarial], 60)
    essential["preserved"][first[0][::2]] = False
    adversarial["preserved"][first[1][1]] = False
    left = set(essential["key"][first[0][3::2]].tolist())
    assert len(left) > 5
    for files, like in (
        ([essential, adversarial], []), ([adversarial], [essential]), ([essential], [adversarial]),
        ([attack, essential, adversarial], []),
    ):  # fmt: skip
        found = chosen(files, 60, like)
        assert all(set(file["key"][rows].tolist()) == left for file, rows in zip(files, found, strict=True))
    adversarial["preserved"][:] = False
    with pytest.warns(FmtoolWarning, match=r"no image has masks that keep its class in .*essential.*, .*adversarial"):
        found = chosen([essential], 60, [adversarial])
    assert len(found[0]) == len(first[0])


def test_filtered_images_are_what_the_masks_leave(load: Load) -> None:
    attack, essential, adversarial = (load(name) for name in ("fmn", "essential", "adversarial"))
    shown = pictures(draw([essential, attack, adversarial], 3))
    places = chosen([attack, essential, adversarial], 3)
    for column in range(3):
        image, adversary = (attack[name][places[0][column]] for name in ("images", "adversarial"))
        kept = filter_images(image, essential["masks"][places[1][column]])
        turned = filter_images(adversary, adversarial["masks"][places[2][column]])
        for row, expected in enumerate((image, adversary, kept, turned)):
            np.testing.assert_allclose(shown[3 * row + column], expected[0].clamp(0, 1).numpy(), atol=1e-6)


def test_class_masks_are_named(load: Load) -> None:
    figure = draw([load("robust")], 3)
    assert [axes.get_title() for axes in figure.axes[:10]] == list("0123456789")


def test_three_channels_are_colours() -> None:
    masks = torch.rand(2, 3, 8, 5)
    rows = {name: torch.arange(2) for name in ("labels", "key", "index", "source")}
    rows["preserved"] = torch.ones(2, dtype=torch.bool)
    header = {"image_size": [8, 8], "for": "essential", "attack": None, "class_names": ["a", "b"]}
    figure = draw([Artifact("masks", header, {"masks": masks, **rows})], 2)
    np.testing.assert_allclose(pictures(figure)[1], shifted(masks[1], 8).permute(1, 2, 0).numpy())


# Spectra --------------------------------------------------------------------------------------------------------------


def test_mean_masks_and_their_profiles(load: Load) -> None:
    masks = [load("essential"), load("adversarial")]
    figure = draw(masks, 8, "mean-mask")
    shown = pictures(figure)
    for picture, file in zip(shown, masks, strict=True):
        full = to_full(file["masks"], 8).mean(dim=(0, 1))
        np.testing.assert_allclose(picture, torch.fft.fftshift(full).numpy(), atol=1e-6)
        assert picture[4, 4] == pytest.approx(float(file["masks"][:, 0, 0, 0].mean()))  # zero frequency in the centre
    image = figure.axes[0].images[0]
    assert image.get_extent() == [-0.5625, 0.4375, 0.4375, -0.5625]  # the middle of entry 4 of 8 is 0
    profile = figure.axes[-1]
    assert "cycles per pixel" in profile.get_xlabel()
    for (x, y), file in zip(lines(profile), masks, strict=False):
        shares = radial.of_masks(file["masks"].numpy(), 8).profile
        np.testing.assert_allclose(x, np.arange(len(x)) / 8)
        np.testing.assert_allclose(y, 100 * np.nanmean(shares, axis=0))
    band = profile.collections[0].get_paths()[0].vertices
    shares = radial.estimate(radial.of_masks(masks[0]["masks"].numpy(), 8).profile)
    assert band[:, 1].max() == pytest.approx(100 * shares.high.max())


def test_mean_masks_of_one_file_and_of_many(load: Load) -> None:
    assert len(pictures(draw([load("essential")], 8, "mean-mask"))) == 1
    many = [load("plain"), load("robust"), *[replace(load("plain"), name=f"x/{n}.safetensors") for n in range(4)]]
    figure = draw(many, 8)  # several class-masks files have no other figure
    assert len(pictures(figure)) == 6
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles[1] == "class masks,\nrobust (FMN)" and titles[2].endswith("plain, 0") and len(set(titles)) == 6


def test_perturbation_is_that_of_the_attacks_that_succeeded(load: Load) -> None:
    attack = load("fmn")
    attack["status"][3] = 2
    figure = draw([attack], 8)
    ok = (attack["status"] == 0).numpy()
    assert 0 < ok.sum() < len(ok)
    moved = (attack["adversarial"].double() - attack["images"].double()).numpy()[ok]
    amplitude = np.abs(np.fft.fft2(moved)).mean(axis=(0, 1))
    np.testing.assert_allclose(pictures(figure)[0], np.fft.fftshift(amplitude), rtol=1e-6)
    mean = radial.estimate(radial.of_images(moved).frequency)
    assert mean.n == ok.sum()
    assert [x[0] for x, _ in lines(figure.axes[1]) if len(set(x)) == 1] == [pytest.approx(mean.mean)]
    attack["status"][:] = 2
    with pytest.raises(ArtifactError, match="no attack succeeded"):
        draw([attack], 8)


def test_radial_profiles_mark_every_mean(load: Load) -> None:
    essential, adversarial, attack = (load(name) for name in ("essential", "adversarial", "fmn"))
    figure = draw([essential, adversarial, attack], 8, "radial")
    above, below = figure.axes[:2]
    names = [text.get_text().partition(", n = ")[0] for text in above.get_yticklabels()]
    assert names == ["essential masks", "adversarial masks (FMN)", "perturbations (FMN)"]
    moved = (attack["adversarial"].double() - attack["images"].double()).numpy()[(attack["status"] == 0).numpy()]
    measured = [
        radial.of_masks(essential["masks"].numpy(), 8),
        radial.of_masks(adversarial["masks"].numpy(), 8),
        radial.of_images(moved),
    ]
    for place, one in enumerate(measured):
        mean = radial.estimate(one.frequency)
        points = above.containers[place]
        assert points.lines[0].get_xdata()[0] == pytest.approx(mean.mean)
        ends = points.lines[2][0].get_segments()[0][:, 0]
        np.testing.assert_allclose(ends, [mean.low, mean.high])
        np.testing.assert_allclose(lines(below)[place][1], 100 * np.nanmean(one.profile, axis=0))
    upright = [x[0] for x, _ in lines(below) if len(x) == 2 and x[0] == x[1]]
    np.testing.assert_allclose(upright, [radial.estimate(one.frequency).mean for one in measured])


def test_an_adaptive_attack_is_told_from_a_plain_one(load: Load) -> None:
    """By its name and by its colour."""
    plain, adaptive = load("fmn"), load("fmn")
    adaptive.header["defense"] = {"robust": True, "attack": "fmn", "restarts": 1, "found": {}, "digest": ""}
    above = draw([plain, adaptive], 8, "radial").axes[0]
    names = [text.get_text().partition(", n = ")[0] for text in above.get_yticklabels()]
    assert names == ["perturbations (FMN)", "perturbations (adaptive FMN\non robust FMN)"]
    assert above.containers[0].lines[0].get_color() != above.containers[1].lines[0].get_color()
    title = draw([adaptive], 8).axes[0].get_title()
    assert title.startswith("perturbations (adaptive FMN on robust FMN),\nn = ")
    rows = draw([adaptive, load("essential")], 2).axes
    assert "adaptive FMN\non robust FMN" in [axes.get_ylabel() for axes in rows]


# Statistics -----------------------------------------------------------------------------------------------------------


def test_nulls_are_histograms_with_the_observed_value(load: Load) -> None:
    file = load("correlation")
    figure = draw([file], 8)
    statistics = file.header["statistics"]
    for axes, one in zip(figure.axes[: len(statistics)], statistics, strict=True):
        heights = sum(patch.get_height() for patch in axes.patches)
        kinds = [f"{one['name']}_null", f"{one['name']}_null_within_class"]
        assert heights == sum(len(file[name]) for name in kinds) == 18
        assert lines(axes)[0][0][0] == pytest.approx(one["observed"])
        assert f"p {one['null']['p']:.3f}" in axes.get_title()


def test_both_nulls_share_their_bins(load: Load) -> None:
    file = load("correlation")
    file.header["statistics"] = file.header["statistics"][:1]
    file.tensors["svcca_null"] = torch.linspace(0, 1, 400).double()  # 20 bins of 0.05
    file.tensors["svcca_null_within_class"] = torch.linspace(1.5, 3.5, 400).double()
    (axes,) = draw([file], 8).axes
    half = len(axes.patches) // 2
    edges = [np.array([patch.get_x() for patch in axes.patches[part]]) for part in (slice(half), slice(half, None))]
    np.testing.assert_array_equal(*edges)
    assert half == 60 and edges[0][0] == pytest.approx(0)  # 70 of 0.05 are more than are told apart
    file.tensors["svcca_null_within_class"] = file["svcca_null"] + 0.5
    axes = draw([file], 8).axes[0]
    assert len(axes.patches) == 60 and axes.patches[0].get_width() == pytest.approx(0.05)
    for name in ("svcca_null", "svcca_null_within_class"):
        file[name][:] = 1.0
    assert sum(patch.get_height() for patch in draw([file], 8).axes[0].patches) == 800


def test_statistics_that_are_undefined_are_drawn_as_such(load: Load) -> None:
    file = load("correlation")
    one = file.header["statistics"][0]
    one["observed"], one["within_class"] = None, None
    one["null"].update(mean=None, low=None, high=None, p=None, adjusted=None, reason="constant")
    file["svcca_null"][:] = torch.nan
    axes = draw([file], 8).axes[0]
    assert "SVCCA -" in axes.get_title() and "p -, adjusted -" in axes.get_title()


def with_cosines(file: Artifact) -> Artifact:
    """Cosines of four pairs and of five others."""
    counts = torch.zeros(100, dtype=torch.int64)
    counts[[50, 51, 60, 99]] = torch.tensor([1, 1, 2, 1])
    more = {"cosine_pairs": torch.tensor([0.01, 0.5, 0.51, 1.0]).double(), "cosine_all_pairs_histogram": counts}
    return replace(file, tensors={**file.tensors, **more})


def test_cosines_are_densities(load: Load) -> None:
    axes = draw([with_cosines(load("correlation"))], 8, "cosine").axes[0]
    null, own = (patch.get_data() for patch in axes.patches)
    np.testing.assert_allclose(null.edges, np.linspace(-1, 1, 51))
    for data in (null, own):
        assert (data.values * np.diff(data.edges)).sum() == pytest.approx(1)
    assert null.values[25] == pytest.approx(2 / 5 / 0.04)  # bins 50 and 51
    assert own.values[37] == pytest.approx(2 / 4 / 0.04)  # 0.50 and 0.51
    means = [x[0] for x, _ in lines(axes)]
    assert means == [pytest.approx((0.01 + 0.03 + 2 * 0.21 + 0.99) / 5), pytest.approx(2.02 / 4)]


def test_defense_matrix_marks_adaptive_and_missing_cells(load: Load) -> None:
    file = load("defense")
    cell = file.header["matrix"][1][1]
    file.header["matrix"].append([None, {**cell, "accuracy": 0.125, "adaptive": True}, None])
    file.header["rows"].append("adaptive PGD")
    file.header["worst"] = [cell, cell, cell]
    axes = draw([file], 8).axes[0]
    values = np.ma.filled(axes.images[0].get_array(), np.nan)
    matrix = [*file.header["matrix"][:2], file.header["worst"], file.header["matrix"][2]]
    expected = [[one["accuracy"] if one else np.nan for one in row] for row in matrix]
    np.testing.assert_array_equal(values, expected)
    assert len(axes.texts) == 10 and axes.texts[-1].get_text().startswith("0.125\n(")
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [patch.get_hatch() for patch in boxes if patch.get_hatch()] == ["////"] * 2
    (frame,) = [patch for patch in boxes if not patch.get_hatch()]
    assert not frame.get_fill() and frame.get_xy() == (pytest.approx(0.54), pytest.approx(2.55))


# Curves ---------------------------------------------------------------------------------------------------------------


def null(mean: float, adjusted: float | None, p: float) -> dict[str, Any]:
    return {
        "mean": mean, "low": mean - 0.1, "high": mean + 0.2, "p": p, "floor": 0.01, "adjusted": adjusted, "reason": "",
    }  # fmt: skip


def point(observed: float, shift: float = 0.0) -> dict[str, Any]:
    adjusted = None if observed > 0.85 else observed / 2
    return {"n": 20, "observed": observed, "null": null(shift - 0.3, adjusted, observed / 10), "within_class": None}


def with_curves(file: Artifact, attack: str, *which: str) -> Artifact:
    """Three sizes with three points each, one of them too small to tell."""
    values = {1: [0.1, 0.2], 2: [0.3, 0.4, 0.8], 3: [0.5, 0.9]}
    few = {"classes": [0], "n": 2, "reason": "too few"}
    entries = [
        {"statistic": name, "size": size, "points": [*map(point, numbers), *([few] if size == 1 else [])]}
        for name in ("cosine", "idcor")
        for size, numbers in values.items()
    ]
    subsample = [{**entry, "size": 10 * entry["size"]} for entry in entries]
    curves = {"class_subsets": entries, "subsample": subsample}
    sides = [{"for": "essential", "attack": None}, {"for": "adversarial", "attack": attack}]
    header = {**file.header, "sides": sides, "curves": {name: curves[name] for name in which}}
    return replace(file, header=header)


def test_class_curves_are_means_over_subsets(load: Load) -> None:
    two = [with_curves(load("correlation"), attack, "class_subsets") for attack in ("fmn", "deepfool")]
    figure = draw(two, 8)
    left, right, share = figure.axes
    x, y = lines(left)[0]
    assert x.tolist() == [1, 2, 3]
    np.testing.assert_allclose(y, [0.15, 0.5, 0.7])
    np.testing.assert_allclose(lines(left)[1][1], [-0.3] * 3)
    np.testing.assert_allclose(lines(share)[0][1], [0.015, 0.05, 0.07])
    adjusted = [(value + 0.3) / 1.3 for value in (0.15, 0.5, 0.7)]  # of the means, whatever the points' own
    np.testing.assert_allclose(lines(right)[0][1], adjusted)
    assert not right.collections
    assert list(lines(share)[-1][1]) == [0.1, 0.1]  # 9 permutations
    band = left.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(0.1), pytest.approx(0.9))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["FMN", "DeepFool", "observed", "null mean", "p (right axis)", "p floor 1/(1 + N)"]
    colours = [to_hex(line.get_color()) for line in (left.lines[0], left.lines[2], share.lines[0])]
    assert colours[0] == colours[2] != colours[1]
    assert [axes.get_ylabel() for axes in (left, share, right)] == ["IdCor", "p", "IdCor, chance-adjusted"]


def test_class_curves_say_how_many_pairs_there_are(load: Load) -> None:
    """The mean over the subsets that are drawn; a mean null near 1 leaves no adjusted value."""
    one, other = (with_curves(load("correlation"), attack, "class_subsets") for attack in ("fmn", "deepfool"))
    points = one.header["curves"]["class_subsets"][4]["points"]  # IdCor, k = 2
    for number, point in enumerate(points):
        point["n"] = 40 + number
        point["null"]["mean"] = 0.96
    left, right, _ = draw([one], 8).axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["1\n20", "2\n41", "3\n20"]
    assert lines(right)[0][0].tolist() == [1, 3]
    assert left.get_xlabel() == "number of classes k\nmean number of pairs n"
    right = draw([one, other], 8).axes[1]
    assert [text.get_text() for text in right.get_xticklabels()] == ["1\n20", "2\n20\n41", "3\n20"]
    assert right.get_xlabel().endswith("n, lowest and highest")


def test_class_curves_show_a_statistic_that_all_files_hold(load: Load) -> None:
    one, other, third = (with_curves(load("correlation"), "fmn", "class_subsets") for _ in range(3))
    other.header["curves"]["class_subsets"] = other.header["curves"]["class_subsets"][:3]
    third.header["curves"]["class_subsets"] = third.header["curves"]["class_subsets"][3:]
    assert draw([one, other], 8).axes[0].get_ylabel() == "cosine"
    with pytest.raises(ArtifactError, match="share no statistic"):
        draw([other, third], 8)


def test_subsamples_end_in_the_value_over_all_rows(load: Load) -> None:
    file = with_curves(load("correlation"), "fmn", "subsample")
    n, statistics = file.header["n"], {one["name"]: one for one in file.header["statistics"]}
    file.header["curves"]["subsample"].append({"statistic": "idcor", "size": n, "points": [statistics["idcor"]]})
    figure = draw([file], 8)
    assert [axes.get_title() for axes in figure.axes] == ["cosine", "IdCor", "", ""]
    for axes, below, name in ((figure.axes[0], figure.axes[2], "cosine"), (figure.axes[1], figure.axes[3], "idcor")):
        whole = statistics[name]
        points, mean, chance, last = lines(axes)
        assert points[0].tolist() == [10, 10, 20, 20, 20, 30, 30, n]
        assert mean[0].tolist() == [10, 20, 30, n]
        np.testing.assert_allclose(mean[1], [0.15, 0.5, 0.7, whole["observed"]])
        np.testing.assert_allclose(chance[1], [-0.3, -0.3, -0.3, whole["null"]["mean"]])
        assert last[1].tolist() == [whole["observed"]]
        low, high = whole["null"]["low"], whole["null"]["high"]
        band = axes.collections[0].get_paths()[0].vertices
        for x, y in ((10, -0.4), (10, -0.1), (n, low), (n, high)):
            assert np.isclose(band, [x, y]).all(axis=1).any()
        of_means = [(value + 0.3) / 1.3 for value in (0.15, 0.5, 0.7)]
        np.testing.assert_allclose(lines(below)[1][1], [*of_means, whole["null"]["adjusted"]])
        assert axes.get_xscale() == "log"


def test_classes_come_before_subsamples_and_nulls(load: Load) -> None:
    file = load("correlation")
    both = with_curves(file, "fmn", "class_subsets", "subsample")
    assert len(draw([both], 8).axes) == 3
    assert len(draw([both], 8, "subsample").axes) == 4
    assert draw([both], 8, "null").axes[0].get_ylabel() == "shuffles"


# Which figure ---------------------------------------------------------------------------------------------------------


def test_every_figure_is_drawn_and_saved_twice_alike(load: Load, tmp_path: Path) -> None:
    names = ("fmn", "essential", "adversarial", "plain", "defense", "correlation")
    attack, essential, adversarial, plain, defense, correlation = map(load, names)
    curves = with_curves(with_cosines(correlation), "fmn", "class_subsets", "subsample")
    takes = {
        "masks": [essential, adversarial], "filtered": [attack, essential], "class-masks": [plain],
        "mean-mask": [essential, plain], "perturbation": [attack], "radial": [attack, essential], "classes": [curves],
        "subsample": [curves], "null": [curves], "cosine": [curves], "defense": [defense],
    }  # fmt: skip
    assert takes.keys() == FIGURES.keys()
    for name, some in takes.items():
        targets = [tmp_path / f"{name}-{number}.svg" for number in range(2)]  # the fastest
        for target in targets:
            save(draw(some, 4, name), str(target))
        assert targets[0].read_bytes() == targets[1].read_bytes(), name


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
        assert len(tensors.parts[name].shape) == 1, name
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
        (["correlation"], "classes", r"--figure classes: expected correlation files of --class-subsets"),
        (["fmn"], "cosine", r"--figure cosine: expected one correlation file with the cosine"),
        (["defense", "fmn"], None, r"can't draw .*\(defense\), .*\(attack\): expected"),
        (["correlation", "correlation"], None, r"can't draw .*\(correlation\)"),
        (["fmn"], "mask", r"unknown --figure 'mask' \(did you mean 'masks'\?\)"),
    ],
)
def test_figures_that_do_not_fit(some: list[str], figure: str | None, message: str, load: Load) -> None:
    with pytest.raises(FmtoolError, match=message):
        draw([load(name) for name in some], 8, figure)


def test_same_images_goes_with_single_images(load: Load) -> None:
    with pytest.raises(FmtoolError, match=r"goes with figures of single images \(masks, filtered\), not with null"):
        draw([load("correlation")], 8, like=[load("essential")])
    with pytest.raises(ArtifactError, match="says which images it holds, got one of kind model"):
        draw([load("essential")], 8, like=[load("model")])


def test_any_class_name_can_be_drawn(load: Load, tmp_path: Path) -> None:
    """Also one that the font lacks, and one that would be a broken formula."""
    plain = load("plain")
    file = replace(plain, header={**plain.header, "class_names": ["漢字", r"$\x^$", *plain.header["class_names"][2:]]})
    save(draw([file], 5), str(tmp_path / "masks.svg"))
    assert (tmp_path / "masks.svg").stat().st_size > 1000
