"""The README can't drift: every `fmtool` line that it shows runs on small stand-ins for its files, or at least parses."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
import typer
from conftest import Run
from safetensors.torch import save_file

import fmtool
from fmtool.__main__ import run as run_command
from fmtool.cli import app
from fmtool.datasets import data
from fmtool.models.resnet import ResNet

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PARSED_ONLY = ("long", "GPU", "network")  # marks behind a line, after its #
LIMIT = 40  # images of a named data set in these runs


def shown_lines(text: str) -> list[tuple[str, str]]:
    """(command line, marks) of every fmtool line in the text's shell blocks, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [line.partition("#") for line in lines if line.startswith("fmtool ")]
    return [(line.strip(), marks.strip()) for line, _, marks in found]


LINES = shown_lines(README)


@pytest.fixture(scope="module")
def folder(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins under the names that the README uses, in their places; later lines meet what earlier ones wrote."""
    made = tmp_path_factory.mktemp("readme")
    names = {"model": "model", "fmn": "fmn", "pgd": "fmn", "essential": "essential", "adversarial": "adversarial",
             "plain": "plain", "robust": "robust", "correlation": "correlation", "defense": "defense"}  # fmt: skip
    for name, source in names.items():
        shutil.copy(files / f"{source}.safetensors", made / f"{name}.safetensors")
    torch.save({"state_dict": ResNet(3, 10, blocks=3, width=16).state_dict()}, made / "resnet20-12fca82f.th")
    (made / "mymodels.py").write_text(
        "import torch\n\n\ndef tiny():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    return made


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named data sets give their first images only, spread over the classes."""
    load = data.load

    def few(spec: str, **options: object) -> data.Data:
        return data.subset(load(spec, **options), LIMIT)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "load", few)


def test_the_readme_shows_every_command() -> None:
    shown = {shlex.split(part)[1] for line, _ in LINES for part in line.split(" | ")}
    assert shown == {command.name for command in app.registered_commands}


@pytest.mark.parametrize(("line", "marks"), LINES, ids=[line.partition(" -o ")[0][:70] for line, _ in LINES])
def test_a_shown_line_parses(line: str, marks: str) -> None:
    """All of it: commands, options, types and required arguments, without running it."""
    group = typer.main.get_command(app)
    for part in line.split(" | "):
        _, name, *arguments = shlex.split(part)
        command = group.commands[name]  # type: ignore[attr-defined]
        with command.make_context(name, arguments) as context:
            assert context.params


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("line", [line for line, marks in LINES if not any(mark in marks for mark in PARSED_ONLY)])
def test_a_shown_line_runs(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process, in order; a pipe's first half writes a file that the second reads."""
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mymodels", raising=False)
    parts = [shlex.split(part)[1:] for part in line.split(" | ")]
    for number, arguments in enumerate(parts):
        # a file stands for each pipe: the first - is what comes, after -o what goes
        comes, goes = (f"pipe-{one}.safetensors" if len(parts) > 1 else "-" for one in (number, number + 1))
        before = ["", *arguments[:-1]]
        named = [
            word if word != "-" else goes if last == "-o" else comes
            for last, word in zip(before, arguments, strict=True)
        ]
        code = run_command(named)
        assert code == 0, f"{line} (part {number + 1}): {capfd.readouterr().err}"
        if "-o" in arguments and "-" not in arguments:
            assert (folder / arguments[arguments.index("-o") + 1]).stat().st_size > 0


@pytest.mark.usefixtures("small_data")
def test_the_python_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert fmtool.read("correlation.safetensors", "correlation").header["permutations"] == 99


def test_every_name_of_the_python_interface_exists() -> None:
    for name in fmtool.__all__:
        assert getattr(fmtool, name) is not None
    with pytest.raises(AttributeError):
        _ = fmtool.no_such_name


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
    assert "pip install fmtool" not in README  # the package index's fmtool is something else


def test_quickstart_lines_parse() -> None:
    """The script's own lines, which CI does not run: each as the README's, at least one with a real pipe."""
    script = (ROOT / "examples" / "quickstart.sh").read_text()
    lines = [line.partition(" > ")[0] for line in script.splitlines() if line.startswith("fmtool ")]
    assert any(" | " in line for line in lines)
    for line in lines:
        test_a_shown_line_parses(line, "")


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
