"""The pages can't drift: every command line that they show runs on small stand-ins for its files, or at least parses.

The pages are README.md and those that it links to. A line of fmtool runs in this process, unless a mark in its comment says that
it needs more than a test has; then it is parsed. Lines that run fmtool by a script or `make` are parsed as what those would run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from conftest import Run
from safetensors.torch import save_file

import fmtool
from fmtool.__main__ import run_command
from fmtool.cli import app
from fmtool.datasets import data
from fmtool.datasets.rows import spread
from fmtool.models.resnet import ResNet

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PATHS = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("README.md")), ROOT / "tests" / "README.md"]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PATHS}
PARSED_ONLY = ("long", "GPU", "network", "cluster")  # marks behind a line, after its #
NOT_OURS = ("export", "git", "pip", "set")  # what else a line may start with
LIMIT = 40  # images of a named data set in these runs

# fmtool's arguments in a line that starts with this program or script
ARGUMENTS: dict[str, Callable[[list[str]], list[str]]] = {
    "fmtool": lambda words: words[1:],
    "torchrun": lambda words: words[words.index("fmtool") + 1 :],
    "torchrun.sh": lambda words: words[2:],
    "local.sh": lambda words: [*words[3:], "--shard", f"1/{words[1]}", "-o", words[2]],
    "array.sbatch": lambda words: [*words[2:], "--shard", "1/8", "-o", words[1]],
}


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def shown_lines(text: str) -> list[tuple[str, str]]:
    """(command line, marks) of every line in the text's shell blocks, continued lines joined."""
    lines = "".join(fenced(text, "sh")).replace("\\\n", " ").splitlines()
    pairs = [line.partition("#") for line in lines]
    return [(line.strip(), marks.strip()) for line, _, marks in pairs if line.strip()]


def program(line: str) -> list[str]:
    """The line's words from its program on, without variables before it and without sbatch."""
    words = shlex.split(line)
    while words and ("=" in words[0] or words[0] in ("sbatch", "python")):
        words = [word for word in words[1:] if not word.startswith("--array")] if words[0] == "sbatch" else words[1:]
    return words


SHOWN = [(page, line, marks) for page, text in PAGES.items() for line, marks in shown_lines(text)]
LINES = [(page, line) for page, line, _ in SHOWN if Path(program(line)[0]).name in ARGUMENTS]
RUN = [
    (page, line)
    for page, line, marks in SHOWN
    if line.startswith("fmtool ") and not any(mark in marks for mark in PARSED_ONLY)
]
MADE = [(page, line) for page, line, _ in SHOWN if program(line)[0] == "make"]
SCRIPTS = [(page, line) for page, line, _ in SHOWN if "/" in program(line)[0]]


def ids(pairs: list[tuple[str, str]]) -> list[str]:
    return [f"{page}: {line.partition(' -o ')[0][:70]}" for page, line in pairs]


def headings(text: str, level: str = "#+") -> set[str]:
    """The anchors of a page's headings, as GitHub forms them."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(rf"^{level} (.+)$", outside, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def first_column(section: str) -> set[str]:
    """The names in backticks that stand in the first column of the section's tables."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", README, flags=re.DOTALL | re.MULTILINE)
    return {
        name
        for row in re.findall(r"^\| ([^|]+) \|", text, flags=re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    }


def parse(line: str) -> None:
    """All of it, without running it: commands, options, types and required arguments."""
    group = typer.main.get_command(app)
    for part in line.split(" | "):
        words = program(part)
        name, *arguments = ARGUMENTS[Path(words[0]).name](words)
        command = group.commands[name]  # type: ignore[attr-defined]
        with command.make_context(name, arguments) as context:
            assert context.params


@pytest.fixture(scope="module")
def folders(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder for each page, with stand-ins under the names that it uses; later lines meet what earlier ones wrote."""
    names = {"model": "model", "fmn": "fmn", "pgd": "fmn", "essential": "essential", "adversarial": "adversarial",
             "plain": "plain", "robust": "robust", "correlation": "correlation", "defense": "defense"}  # fmt: skip
    known: dict[str, Path] = {}

    def folder(page: str) -> Path:
        if page not in known:
            known[page] = tmp_path_factory.mktemp("page")
            for name, source in names.items():
                shutil.copy(files / f"{source}.safetensors", known[page] / f"{name}.safetensors")
            torch.save(
                {"state_dict": ResNet(3, 10, blocks=3, width=16).state_dict()}, known[page] / "resnet20-12fca82f.th"
            )
            images = fmtool.load_data("digits:test", limit=LIMIT).pixels()
            np.save(known[page] / "adv.npy", images.numpy())  # as `small_data` gives them
            (known[page] / "mymodels.py").write_text(
                "import torch\n\n\ndef tiny():\n"
                "    torch.manual_seed(0)\n"
                "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
            )
        return known[page]

    return folder


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named data sets give their first images only, spread over the classes."""
    load = data.load

    def few(spec: str, **options: object) -> data.Data:
        whole = load(spec, **options)  # type: ignore[arg-type]
        return data.some_of(whole, spread(whole.labels, LIMIT))

    monkeypatch.setattr(data, "load", few)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_lines_and_they_are_of_a_kind_that_is_checked(page: str) -> None:
    checked = {line for shown, line in (*LINES, *MADE, *SCRIPTS) if shown == page}
    assert checked
    others = {line for shown, line, _ in SHOWN if shown == page} - checked
    assert {program(line)[0] for line in others} <= {*NOT_OURS}


def test_the_pages_show_every_command_and_the_readme_lists_them() -> None:
    commands = {command.name for command in app.registered_commands}
    assert {shlex.split(part)[1] for _, line in RUN for part in line.split(" | ")} == commands
    assert first_column("The stages") == commands


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), LINES, ids=ids(LINES))
def test_a_shown_line_parses(page: str, line: str) -> None:
    parse(line)


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(("page", "line"), RUN, ids=ids(RUN))
def test_a_shown_line_runs(
    page: str,
    line: str,
    folders: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process, in order; a pipe's first half writes a file that the second reads."""
    monkeypatch.chdir(folders(page))
    monkeypatch.syspath_prepend(ROOT / "examples" / "imagenette")  # the page's own `export PYTHONPATH`
    monkeypatch.delitem(sys.modules, "mymodels", raising=False)
    parts = [shlex.split(part)[1:] for part in line.split(" | ")]
    for number, arguments in enumerate(parts):
        # a file stands for each pipe: the first - is standard input, the one after -o standard output
        source, target = (f"pipe-{one}.safetensors" if len(parts) > 1 else "-" for one in (number, number + 1))
        before = ["", *arguments[:-1]]
        words = [
            word if word != "-" else target if last == "-o" else source
            for last, word in zip(before, arguments, strict=True)
        ]
        code = run_command(words)
        assert code == 0, f"{line} (part {number + 1}): {capfd.readouterr().err}"
        if "-o" in arguments and "-" not in arguments:
            assert Path(arguments[arguments.index("-o") + 1]).stat().st_size > 0


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("page", "line"), MADE, ids=ids(MADE))
def test_what_a_shown_line_makes_parses(page: str, line: str, tmp_path: Path) -> None:
    """`make -n` prints its recipes; every fmtool line among them is parsed."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("pictures", "output"))
    words = shlex.split(line)
    for word in words:
        if "=" in word and "." in Path(word.partition("=")[2]).suffix:  # a file, in the Makefile's folder
            (tmp_path / words[words.index("-C") + 1] / word.partition("=")[2]).touch()
    done = subprocess.run([*words, "-n"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" > ")[0] for line in done.stdout.replace("\\\n", " ").splitlines()]
    lines = [line for line in lines if line.startswith("fmtool ")]
    assert bool(lines) == ("help" not in words)
    for recipe in lines:
        parse(recipe)


@pytest.mark.parametrize(("page", "line"), SCRIPTS, ids=ids(SCRIPTS))
def test_a_shown_script_exists_and_has_the_options(page: str, line: str) -> None:
    name, *arguments = program(line)
    script = ROOT / name
    assert script.is_file() and (script.suffix == ".py" or os.access(script, os.X_OK))
    if script.name not in ARGUMENTS:
        sources = "".join(path.read_text() for path in (script, script.with_name("common.py")) if path.exists())
        for option in arguments:
            if option.startswith("--"):
                assert re.search(rf"[\"' ]{option}\b", sources), f"{name} has no {option}"


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
def test_the_python_example_runs(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders("Python"))
    (code,) = fenced("".join(PAGES.values()), "python")
    exec(compile(code, "README.md", "exec"), {})
    assert fmtool.read("correlation.safetensors", "correlation").header["permutations"] == 99


def test_every_name_of_the_python_interface_exists() -> None:
    for name in fmtool.__all__:
        assert getattr(fmtool, name) is not None
    with pytest.raises(AttributeError):
        _ = fmtool.no_such_name
    assert first_column("Python") == {*fmtool.__all__}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Files and pictures exist, and so does the heading behind a #."""
    assert links(PAGES[page])
    for link in links(PAGES[page]):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), f"{page}: {link}"
        assert not anchor or anchor in headings(target.read_text()), f"{page}: {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_a_page_lists_its_contents_and_the_readme_links_to_it(page: str) -> None:
    contents = {link.removeprefix("#") for link in links(PAGES[page]) if link.startswith("#")}
    assert headings(PAGES[page], "##") and headings(PAGES[page], "##") <= contents
    assert page in {link.partition("#")[0] for link in links(README)}


def test_no_page_installs_another_project() -> None:
    """The package index's fmtool is something else."""
    for text in PAGES.values():
        assert "pip install fmtool" not in text
    assert len(README.splitlines()) <= 240


@pytest.mark.slow
def test_quickstart_lines_parse() -> None:
    """The script's own lines, which CI does not run: each as the README's, at least one with a real pipe."""
    script = (ROOT / "examples" / "quickstart.sh").read_text()
    lines = [line.partition(" > ")[0] for line in script.splitlines() if line.startswith("fmtool ")]
    assert any(" | " in line for line in lines)
    for line in lines:
        parse(line)


def test_foreign_matrices_correlate(tmp_path: Path, run: Run) -> None:
    """Two files with one matrix each, rows paired by place, one column each."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(200, generator=draw)
    save_file({"x": x}, str(tmp_path / "a.safetensors"))
    save_file({"y": 2 * x[:, None] + 1}, str(tmp_path / "b.safetensors"))
    found = run("correlate", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--permutations", 19,
                "--no-row-normalise", "-o", tmp_path / "c.safetensors")  # fmt: skip
    assert found.code == 0, found.err
    values = {one["name"]: one for one in fmtool.read(str(tmp_path / "c.safetensors")).header["statistics"]}
    assert values["idcor"]["observed"] == pytest.approx(1, abs=1e-3)
    assert values["svcca"]["observed"] == pytest.approx(1)
    assert values["idcor"]["null"]["p"] == 0.05
