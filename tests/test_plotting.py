"""Pictures: what stands in which cell, and files that come out the same twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run

import fmtool
from fmtool import plotting
from fmtool.artifacts import Artifact
from fmtool.errors import ArtifactError
from fmtool.spectrum import filter_images, shifted


@pytest.fixture
def load(files: Path) -> object:
    """A shared file by its name."""
    return lambda name: fmtool.read(str(files / f"{name}.safetensors"))


def pictures(figure: object) -> list[np.ndarray]:
    """What the figure's cells show, row by row, without the colour bar."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]  # type: ignore[attr-defined]


def row_of(file: Artifact, key: int) -> int:
    """Where a file holds an image."""
    return file["key"].tolist().index(key)


def test_mask_grids_show_the_same_images_with_the_zero_frequency_in_the_centre(load: object) -> None:
    essential, adversarial = load("essential"), load("adversarial")  # type: ignore[operator]
    figure = plotting.draw([essential, adversarial], 5)
    shown = pictures(figure)
    assert len(shown) == 10
    chosen = plotting._chosen([essential, adversarial], 5)
    for column in range(5):
        key = int(essential["key"][chosen[0][column]])
        for row, file in enumerate((essential, adversarial)):
            mask = shifted(file["masks"][row_of(file, key)], 8)[0]
            np.testing.assert_array_equal(shown[5 * row + column], mask.numpy())
    labels = [int(essential["labels"][row]) for row in chosen[0]]
    assert len(set(labels)) == 5 and labels == sorted(labels)
    assert [axes.get_title() for axes in figure.axes[:5]] == [str(label) for label in labels]


def test_filtered_images_are_what_the_masks_leave(load: object) -> None:
    attack, essential, adversarial = (load(name) for name in ("fmn", "essential", "adversarial"))  # type: ignore[operator]
    shown = pictures(plotting.draw([attack, essential, adversarial], 3))
    places = plotting._chosen([attack, essential, adversarial], 3)
    for column in range(3):
        image, adversary = (attack[name][places[0][column]] for name in ("images", "adversarial"))
        kept = filter_images(image, essential["masks"][places[1][column]])
        turned = filter_images(adversary, adversarial["masks"][places[2][column]])
        for row, expected in enumerate((image, adversary, kept, turned)):
            np.testing.assert_allclose(shown[3 * row + column], expected[0].clamp(0, 1).numpy(), atol=1e-6)


def test_class_masks_are_named(load: object) -> None:
    figure = plotting.draw([load("robust")], 3)  # type: ignore[operator]
    assert [axes.get_title() for axes in figure.axes[:10]] == list("0123456789")


def test_three_channels_are_colours() -> None:
    masks = torch.rand(2, 3, 8, 5)
    rows = {name: torch.arange(2) for name in ("labels", "key", "index", "source")}
    header = {"image_size": [8, 8], "for": "essential", "attack": None, "class_names": ["a", "b"]}
    figure = plotting.draw([Artifact("masks", header, {"masks": masks, **rows})], 2)
    np.testing.assert_allclose(pictures(figure)[1], shifted(masks[1], 8).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_picture_has_the_same_bytes(suffix: str, files: Path, tmp_path: Path, run: Run) -> None:
    targets = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for target in targets:
        found = run("plot", files / "essential.safetensors", "--count", 3, "-o", target)
        assert found.code == 0, found.err
        assert found.out.strip() == str(target)
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_files_that_make_no_picture_together(load: object, files: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(ArtifactError, match="can't draw attack together"):
        plotting.draw([load("fmn")], 3)  # type: ignore[operator]
    found = run("plot", files / "essential.safetensors", "-o", tmp_path / "masks.gif")
    assert found.code == 1 and "expected a name that ends in .png" in found.err
    assert not list(tmp_path.iterdir())
