"""The report page: whole in itself, well-formed, and with the numbers of its files."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import Run

import fmtool
from fmtool import report
from fmtool.errors import ArtifactError

VOID = {"meta", "img", "br", "link", "hr", "input"}
EVERY = ("model", "fmn", "essential", "adversarial", "correlation", "plain", "robust", "defense")


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
    # perturbation; masks, mean mask, filtered, radial; null, cosine; two of class masks; defence
    assert len(found.images) == 10 and all(image["alt"] for image in found.images)
    defense = fmtool.read(str(files / "defense.safetensors"))
    assert f"{defense.header['matrix'][0][0]['accuracy']:.3f}" in text
    assert fmtool.read(str(files / "model.safetensors")).digest in text


def test_the_same_files_give_the_same_page(page: str, files: Path) -> None:
    again = report.build([fmtool.read(str(files / f"{name}.safetensors")) for name in EVERY], count=3)
    assert again == page


def test_names_are_text_not_markup(files: Path) -> None:
    model = dataclasses.replace(fmtool.read(str(files / "model.safetensors")), name="<b>&.safetensors")
    found = Page(report.build([model]))
    assert "<b>&.safetensors" in found.text


def test_a_single_file_of_any_kind_makes_a_page(files: Path) -> None:
    for name in EVERY:
        Page(report.build([fmtool.read(str(files / f"{name}.safetensors"))], count=2))


def test_no_file_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="at least one file"):
        report.build([])


def test_the_command_writes_the_page(run: Run, files: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    done = run("report", files / "correlation.safetensors", files / "defense.safetensors", "-o", target)
    assert done.code == 0, done.err
    assert done.out.strip() == str(target) and Page(target.read_text()).images
    done = run("report", files / "missing.safetensors", "-o", target)
    assert done.code == 1 and done.err.count("\n") == 1
