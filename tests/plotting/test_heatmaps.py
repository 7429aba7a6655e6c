"""Figures of heat maps: the numbers in their axes, and which files are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from figures import Load, lines, pictures
from half_spectrum import fourier

from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError
from fmtool.masks.radial import share_interval
from fmtool.masks.registry import FILTERS
from fmtool.plotting.heatmaps import compare, heatmap
from fmtool.tables.heatmaps import band_means
from fmtool.tables.spectra import arrays


def with_header(file: Artifact, **fields: object) -> Artifact:
    return replace(file, header={**file.header, **fields})


def test_the_zero_frequency_is_in_the_centre_and_filters_are_counts(load: Load) -> None:
    file = load("heatmap")
    figure = heatmap([file])
    (shown,) = pictures(figure)[:1]
    rates = 100 * file["error_rate"].numpy()
    assert shown[4, 4] == pytest.approx(rates[0, 0]) and shown[4 + 1, 4 + 2] == pytest.approx(rates[1, 2])
    np.testing.assert_allclose(shown[1:, 1:], shown[1:, 1:][::-1, ::-1])  # k and -k
    right = figure.axes[1]
    n = len(file["clean_wrong"])
    for (x, y), kind in zip(lines(right), FILTERS, strict=True):
        counts = np.array(file.header["filters"]["right"][kind])
        np.testing.assert_allclose(x, file.header["filters"]["radii"])
        np.testing.assert_allclose(y, 100 * counts / n)
    band = right.collections[0].get_paths()[0].vertices[:, 1]
    shares = [count / n for count in file.header["filters"]["right"]["low-pass"]]
    assert band.max() == pytest.approx(100 * max(share_interval(share, n)[1] for share in shares))


def test_without_filters_the_errors_are_drawn_against_frequency(load: Load) -> None:
    file = with_header(load("heatmap"), filters=None)
    right = heatmap([file]).axes[1]
    bands = band_means(file.header, arrays(file))
    (x, y), (_, clean) = lines(right)
    np.testing.assert_allclose(x, bands.radii)
    np.testing.assert_allclose(y, 100 * bands.error.mean)
    assert clean[0] == pytest.approx(100 * float(file["clean_wrong"].double().mean()))
    assert right.get_ylabel() == "error rate (%)"


def test_four_files_are_compared_in_whatever_order(load: Load) -> None:
    some = [load(name) for name in ("adversarial", "fmn", "heatmap", "essential")]
    figure = compare(some)
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["error rate (%)", "mean essential mask", "mean adversarial mask", "mean perturbation"]
    for shown, file in zip(pictures(figure)[1:3], (some[3], some[0]), strict=True):
        np.testing.assert_allclose(shown, fourier(8, 8).picture(file["masks"].mean(dim=(0, 1))).numpy(), atol=1e-6)
    shares = [line for axes in figure.axes if "energy" in axes.get_ylabel() for line in lines(axes)]
    assert len(shares) == 3 and all(abs(y.sum() - 100) < 1e-6 for _, y in shares)


def test_files_that_can_not_be_compared_are_told(load: Load) -> None:
    heat, essential, adversarial, attack = (load(name) for name in ("heatmap", "essential", "adversarial", "fmn"))
    for some, message in (
        ([heat, essential, essential, attack], "expected essential and adversarial masks, got two of one purpose"),
        (
            [heat, with_header(essential, basis="dct"), adversarial, attack],
            "masks in the basis dct have no frequencies",
        ),
        (
            [heat, essential, adversarial, with_header(attack, attack="pgd")],
            "adversarial.* is not fitted to the images of .*fmn",
        ),
        ([with_header(heat, image_size=[4, 4]), essential, adversarial, attack], "got several sizes of images"),
        ([replace(heat, history=[]), essential, adversarial, attack], "got several models"),
    ):
        with pytest.raises(ArtifactError, match=message):
            compare(some)


def test_equal_errors_have_a_scale_without_negative_rates(load: Load) -> None:
    heat = load("heatmap")
    for rate, highest in ((0.0, 1.0), (0.25, 25.0)):
        equal = replace(heat, tensors={**heat.tensors, "error_rate": torch.full_like(heat["error_rate"], rate)})
        assert heatmap([equal]).axes[0].images[0].get_clim() == (0.0, highest)


def test_an_attack_without_success_has_no_spectrum_to_compare(load: Load) -> None:
    heat, essential, adversarial, attack = (load(name) for name in ("heatmap", "essential", "adversarial", "fmn"))
    attack["status"][:] = 2
    with pytest.raises(ArtifactError, match="no attack succeeded, so there is no perturbation to draw"):
        compare([heat, essential, adversarial, attack])
