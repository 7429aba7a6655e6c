"""Null distributions, cosines and the defence: the numbers in their axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from figures import Load, lines, with_cosines
from matplotlib.patches import Rectangle

from fmtool.plotting.figure import draw


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


def test_cosines_are_densities(load: Load) -> None:
    axes = draw([with_cosines(load("correlation"))], 8, "cosine").axes[0]
    null, own = (patch.get_data() for patch in axes.patches)
    np.testing.assert_allclose(null.edges, np.linspace(-1, 1, 51))
    for data in (null, own):
        assert (data.values * np.diff(data.edges)).sum() == pytest.approx(1)
    assert null.values[25] == pytest.approx(2 / 5 / 0.04)  # bins 50 and 51
    assert own.values[37] == pytest.approx(2 / 4 / 0.04)  # 0.50 and 0.51
    means = [x[0] for x, _ in lines(axes)]
    (cosine,) = [one for one in load("correlation").header["statistics"] if one["name"] == "cosine"]
    assert means == [cosine["null"]["mean"], pytest.approx(2.02 / 4)]


def test_cosines_say_what_they_are_of(load: Load) -> None:
    file = with_cosines(load("correlation"))
    (cosine,) = [one for one in file.header["statistics"] if one["name"] == "cosine"]
    for purpose, same, other in (
        ("essential", "masks of the same image", "masks of different images"),
        (None, "rows of the same pair", "rows of different pairs"),
    ):
        file.header["sides"] = [{"for": purpose, "attack": None}] * 2
        texts = [text.get_text() for text in draw([file], 8, "cosine").legends[0].get_texts()]
        assert {other, f"{same}, n = 4", f"null mean {cosine['null']['mean']:.3f}"} <= set(texts)


def test_a_small_p_is_not_shown_as_0(load: Load) -> None:
    file = load("correlation")
    file.header["permutations"] = 9999
    file.header["statistics"][0]["null"]["p"] = 0.0001
    assert "p 0.0001, adjusted" in draw([file], 8).axes[0].get_title()


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
