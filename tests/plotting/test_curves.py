"""Curves against the number of classes and of pairs: the numbers in their axes."""

from __future__ import annotations

import numpy as np
import pytest
from figures import Load, lines, with_curves
from matplotlib.colors import to_hex

from fmtool.errors import ArtifactError
from fmtool.plotting.figure import draw


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


def test_class_curves_name_the_attack_of_the_adversarial_masks(load: Load) -> None:
    """The essential masks' images came from an FMN file."""
    file = with_curves(load("correlation"), "pgd", "class_subsets")
    file.header["sides"] = [{"for": "adversarial", "attack": "pgd"}, {"for": "essential", "attack": "fmn"}]
    assert draw([file], 8).legends[0].get_texts()[0].get_text() == "PGD"


def test_class_curves_of_a_seventh_file_have_another_marker(load: Load) -> None:
    seven = [with_curves(load("correlation"), f"Attack{number}", "class_subsets") for number in range(7)]
    right = draw(seven, 8).axes[1]
    looks = {(line.get_color(), line.get_marker()) for line in right.lines if line.get_marker() != "None"}
    assert len(looks) == 7


def test_class_curves_show_the_control(load: Load) -> None:
    figure = draw([with_curves(load("correlation"), "fmn", "class_subsets", "equal_pairs")], 8)
    right = figure.axes[1]
    np.testing.assert_allclose(lines(right)[1][1], [(value + 0.3) / 1.3 for value in (0.05, 0.4, 0.6)])
    assert "as many pairs of all classes" in [text.get_text() for text in figure.legends[0].get_texts()]


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
