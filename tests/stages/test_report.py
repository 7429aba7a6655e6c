"""The report page: whole in itself, well-formed, and with the numbers of its files."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
import torch

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError
from fmtool.stages import report

VOID = {"meta", "img", "br", "link", "hr", "input"}
EVERY = ("model", "fmn", "essential", "adversarial", "correlation", "plain", "robust", "defense", "heatmap")


class Page(HTMLParser):
    """Collects a page's text and addresses, and checks that what opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(files: Path) -> str:
    return report.build([fmtool.read(str(files / f"{name}.safetensors")) for name in EVERY], count=3)


def test_the_page_needs_nothing_else(page: str) -> None:
    addresses = Page(page).addresses
    assert addresses and all(one.startswith(("data:image/png;base64,", "#")) for one in addresses)
    assert "<script" not in page and "http" not in re.sub(r"base64,[^\"]*", "", page)


def test_every_file_has_its_section_tables_and_figures(page: str, files: Path) -> None:
    found = Page(page)
    text = " ".join(found.text)
    for heading in report.SECTIONS.values():
        assert heading in found.text
    # heat map, compared; perturbation; masks, mean mask, filtered, radial; null, cosine; two of class masks; defence
    assert len(found.images) == 12 and all(image["alt"] for image in found.images)
    defense = fmtool.read(str(files / "defense.safetensors"))
    assert f"{defense.header['matrix'][0][0]['accuracy']:.3f}" in text
    assert fmtool.read(str(files / "model.safetensors")).digest in text


@pytest.mark.slow
def test_the_same_files_give_the_same_page(page: str, files: Path) -> None:
    again = report.build([fmtool.read(str(files / f"{name}.safetensors")) for name in EVERY], count=3)
    assert again == page


def test_names_are_text_not_markup(files: Path) -> None:
    """Of files, classes and captions; and what can't be printed is shown as its code."""
    named = {"name": '<b>&\x1b\udce9 "a".safetensors'}
    shown = '<b>&\\x1b\\udce9 "a".safetensors'
    model, plain = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "plain"))
    text = report.build([dataclasses.replace(model, **named)])
    assert shown in Page(text).text and text.encode().isascii()
    header = {**plain.header, "class_names": ["<script>", "{{ 1 + 1 }}", *plain.header["class_names"][2:]]}
    page = Page(report.build([dataclasses.replace(plain, header=header, **named)]))
    assert {"<script>", "{{ 1 + 1 }}"} <= set(page.text) and page.images[0]["alt"] == shown


def test_a_figure_that_cannot_be_drawn_leaves_its_reason(files: Path) -> None:
    attack = fmtool.read(str(files / "fmn.safetensors"))
    attack["status"][:] = 2
    page = Page(report.build([attack]))
    assert not page.images and "no picture, " in " ".join(page.text) and "no attack succeeded" in " ".join(page.text)


@pytest.mark.slow
def test_a_single_file_of_any_kind_makes_a_page(files: Path) -> None:
    for name in EVERY:
        Page(report.build([fmtool.read(str(files / f"{name}.safetensors"))], count=2))


def part_of(file: Artifact, rows: slice, name: str) -> Artifact:
    return dataclasses.replace(file, tensors={key: tensor[rows] for key, tensor in file.tensors.items()}, name=name)


@pytest.mark.slow
def test_masks_that_share_no_image_make_a_page_all_the_same(files: Path) -> None:
    """Test and train images and both: each shares some with `both`, but no image is in all three."""
    attack, both = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("fmn", "essential"))
    test, train = part_of(both, slice(20), "test"), part_of(both, slice(20, 40), "train")
    found = Page(report.build([both, test, train, attack], count=2))
    assert len(found.images) == 5 and "no picture" not in " ".join(found.text)
    assert len(Page(report.build([test, train], count=2)).images) == 2


@pytest.mark.slow
def test_correlations_that_share_no_statistic_have_no_table_together(files: Path) -> None:
    def only(*names: str) -> Artifact:
        file = fmtool.read(str(files / "correlation.safetensors"))
        kept = [one for one in file.header["statistics"] if one["name"] in names]
        return dataclasses.replace(file, header={**file.header, "statistics": kept}, name="-".join(names))

    found = Page(report.build([only("svcca"), only("idcor")]))
    assert "as Table 1" not in " ".join(found.text) and {"svcca", "idcor"} <= set(found.text)
    assert len(found.images) == 4
    assert "as Table 1" in " ".join(Page(report.build([only("svcca"), only("svcca", "idcor")])).text)


def test_what_cannot_be_drawn_is_said_in_its_place(files: Path) -> None:
    attack = fmtool.read(str(files / "fmn.safetensors"))
    attack["status"][:] = 2
    found = Page(report.build([attack]))
    assert not found.images and "no attack succeeded" in " ".join(found.text)


@pytest.mark.slow
def test_adaptive_images_are_not_filtered_by_masks_of_others(files: Path) -> None:
    attack, masks = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("fmn", "adversarial"))
    captions = [one["alt"] for one in Page(report.build([attack, masks], count=2)).images]
    assert sum("what the masks leave" in str(one) for one in captions) == 1
    found = {"two_pass": 0, "class_masks": 0}
    defense = {"robust": False, "attack": None, "restarts": 1, "digest": "", "found": found}
    adaptive = dataclasses.replace(attack, header={**attack.header, "defense": defense})
    captions = [one["alt"] for one in Page(report.build([adaptive, masks], count=2)).images]
    assert captions and not any("what the masks leave" in str(one) for one in captions)


@pytest.mark.slow
def test_a_readers_settings_of_matplotlib_change_nothing(files: Path) -> None:
    file = fmtool.read(str(files / "plain.safetensors"))
    expected = report.build([file])
    with matplotlib.rc_context({"savefig.transparent": True, "savefig.facecolor": "red", "axes.grid": True}):
        assert report.build([file]) == expected


def test_the_cosines_of_matrices_are_of_rows() -> None:
    x = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    found = fmtool.correlate(x, x.flip(1), statistics=["cosine"], permutations=3)
    captions = [one.caption for one in report.PICTURES["correlation"]({"correlation": [found]})]
    assert any(one.endswith("and of rows of different pairs") for one in captions)


def test_no_file_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="at least one file"):
        report.build([])


@pytest.mark.slow
def test_masks_without_frequencies_have_a_section_all_the_same(files: Path) -> None:
    """Wavelets' and pixels' entries have no radial frequency: only the tables and figures of those are left out."""
    model, attack, masks = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn", "essential"))
    pixels = fmtool.fit_masks(model, attack, for_="essential", basis="pixels", min_steps=1, max_steps=2)
    page = Page(report.build([attack, masks, pixels], count=2))
    assert "can't be" not in " ".join(page.text) and "Radial frequency of spectra" in " ".join(page.text)
    alone = Page(report.build([pixels], count=2))
    assert any("pixels" in text for text in alone.text) and "Radial frequency" not in " ".join(alone.text)
