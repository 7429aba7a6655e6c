"""Mean spectra and radial profiles: the numbers in their axes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from figures import Load, lines, pictures
from half_spectrum import fourier, to_full

from fmtool.errors import ArtifactError
from fmtool.masks import radial
from fmtool.plotting.figure import draw


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
        shares = radial.of_masks(file["masks"].numpy(), fourier(8, 8)).profile
        np.testing.assert_allclose(x, np.arange(len(x)) / 8)
        np.testing.assert_allclose(y, 100 * np.nanmean(shares, axis=0))
    band = profile.collections[0].get_paths()[0].vertices
    shares = radial.estimate(radial.of_masks(masks[0]["masks"].numpy(), fourier(8, 8)).profile)
    assert band[:, 1].max() == pytest.approx(100 * shares.high.max())


def test_mean_masks_of_one_file_and_of_many(load: Load) -> None:
    assert len(pictures(draw([load("essential")], 8, "mean-mask"))) == 1
    many = [load("plain"), load("robust"), *[replace(load("plain"), name=f"x/{n}.safetensors") for n in range(4)]]
    figure = draw(many, 8)  # several class-masks files have no other figure
    assert len(pictures(figure)) == 6
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles[1] == "class masks,\nrobust FMN" and titles[2].endswith("plain, 0") and len(set(titles)) == 6


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
        radial.of_masks(essential["masks"].numpy(), fourier(8, 8)),
        radial.of_masks(adversarial["masks"].numpy(), fourier(8, 8)),
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


def test_masks_without_an_attack_are_told_apart_by_colour(load: Load) -> None:
    essential, other = load("essential"), load("essential")
    other.header["objective"] = "distribution"
    above = draw([essential, other], 8, "radial").axes[0]
    assert above.containers[0].lines[0].get_color() != above.containers[1].lines[0].get_color()


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


def test_blocks_without_a_success_add_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transform of no images is an error; of 3 x 224 x 224 a block holds 55."""
    attack = load("fmn")
    attack["status"][:5] = 2
    (whole, *_) = pictures(draw([attack], 8))
    monkeypatch.setattr(radial, "BLOCK", 1)
    np.testing.assert_allclose(pictures(draw([attack], 8))[0], whole, rtol=1e-12)


def test_curves_can_be_told_apart_and_end_within_the_axes(load: Load) -> None:
    many = [replace(load("essential"), name=f"x/{n}.safetensors") for n in range(9)]
    profile = draw(many, 8, "mean-mask").axes[-1]
    curves = profile.get_lines()[:9]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in curves}) == 9  # type: ignore[attr-defined]
    assert profile.get_xlim()[1] > curves[0].get_xdata()[-1] == 0.75  # type: ignore[index]
