"""What all commands share: help, light imports, formats, warnings and how they end."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from safetensors.torch import save_file
from small_files import load

import fmtool
from fmtool.artifacts.files import describe
from fmtool.cli import app
from fmtool.errors import FmtoolWarning
from fmtool.tables import registry
from fmtool.tables.table import Table, as_csv, as_json

CHOICES = {  # of each option that takes one of a few names
    "for": "essential|adversarial",
    "format": "table|json|csv|markdown",
    "precision": "float32|tf32|bfloat16",
    "preset": "paper",
}
COMMANDS = [
    "train-model",
    "import-model",
    "attack",
    "import-attack",
    "fit-masks",
    "correlate",
    "class-masks",
    "defend",
    "check-masks",
    "heatmap",
    "merge",
    "inspect",
    "verify",
    "plot",
    "report",
    "doctor",
]
SLOW = {"torch", "torchvision", "foolbox", "skdim", "matplotlib", "numba", "sklearn", "scipy", "numpy", "pandas"}
SLOW_EVEN_FOR_INSPECT = SLOW - {"numpy"}
THIRD_PARTY = {"torchvision", "foolbox", "skdim", "matplotlib", "numba", "sklearn", "scipy", "pandas", "timm"}
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}
NEEDS_NOTHING_SLOW_BUT_TORCH = {  # command lines with small files, and what of `THIRD_PARTY` and `COMPILER` they may import
    "fit-masks MODEL FMN --for adversarial --limit 2 --max-steps 2 --min-steps 0 -o OUT": set(),
    "fit-masks MODEL --data IMAGES --for essential --max-steps 2 --min-steps 0 -o OUT": set(),
    "class-masks MODEL --data IMAGES --max-steps 2 --min-steps 0 -o OUT": set(),
    "check-masks MODEL FMN ESSENTIAL": set(),
    "defend MODEL FMN PLAIN": set(),
    "heatmap MODEL --data IMAGES -o OUT": set(),
    "correlate ESSENTIAL ADVERSARIAL --statistics cosine --permutations 9": set(),
    "correlate ESSENTIAL ADVERSARIAL --statistics idcor --permutations 9": {"numba", "scipy"},
    "attack MODEL --data IMAGES --attack pgd --epsilon 8/255 -o OUT": {"foolbox", "numba", "scipy"},
}


def _fmtool(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """`fmtool ARGUMENTS...` in a process of its own."""
    line = [sys.executable, "-m", "fmtool", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload, no-any-return]


def _imported(*arguments: object) -> set[str]:
    """The top-level modules that a command line imports."""
    return {name.partition(".")[0] for name in _modules(*arguments)}


def _modules(*arguments: object) -> set[str]:
    """All modules that a command line imports, and its exit code."""
    code = "import sys; from fmtool.__main__ import run_command; print(run_command(sys.argv[1:]), *sys.modules, file=sys.stderr)"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    found = subprocess.run(line, check=True, capture_output=True, text=True, timeout=120)
    return set(found.stderr.split())


# Help ----------------------------------------------------------------------------------------------------------------


def test_every_command_of_the_design_exists(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0 and outcome.err == ""
    listed = re.findall(r"^  ([a-z-]+)  ", outcome.out.partition("Commands:")[2], re.M)
    assert listed == COMMANDS


def test_summaries_are_whole(run: Run) -> None:
    listed = run("--help").out.partition("Commands:")[2].partition("Example:")[0].strip().splitlines()
    assert len(listed) == len(COMMANDS), listed  # none is wrapped
    assert all(re.fullmatch(r" *[a-z-]+ +[A-Z].*[^.]\.", line) for line in listed), listed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_no_types_of_the_parser(command: str, run: Run) -> None:
    shown = run(command, "--help").out
    assert re.findall(r"<[^>]*>|9223372036854775807", shown) == []
    assert all(f"--{name} {choices}" in shown for name, choices in CHOICES.items() if f"--{name} " in shown)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_ends_with_an_example_that_parses(command: str, run: Run) -> None:
    outcome = run(*command.split(), "--help")
    assert outcome.code == 0 and outcome.err == ""
    *_, title, example = outcome.out.rstrip().splitlines()
    assert title.strip() == "Example:"
    words = shlex.split(example)
    assert words[0] == "fmtool" and words[1] == (command or "train-model")
    import typer

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    context = commands[words[1]].make_context(words[1], words[2:])  # raises for options that don't exist
    assert context.params


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    import typer

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert commands[command].help
    unexplained = [one.name for one in commands[command].params if not one.help]
    assert unexplained == []


@pytest.mark.processes
def test_help_of_every_command_imports_nothing_slow() -> None:
    """One process for all of them: none of them may import anything slow."""
    code = (
        "import sys; from fmtool.__main__ import run_command\n"
        "assert [run_command([*name.split(), '--help']) for name in sys.argv[1:]] == [0] * len(sys.argv[1:])\n"
        "run_command(['--version']); print(*sys.modules, file=sys.stderr)"
    )
    line = [sys.executable, "-c", code, "", *COMMANDS]
    found = subprocess.run(line, check=True, capture_output=True, text=True, timeout=120)
    assert found.stdout.count("Example:") == 1 + len(COMMANDS)
    assert {name.partition(".")[0] for name in found.stderr.split()} & SLOW == set()


@pytest.mark.processes
def test_inspect_imports_nothing_slow(files: Path) -> None:
    found = _imported("inspect", *sorted(files.glob("*.safetensors")))
    assert "safetensors" in found and found & SLOW_EVEN_FOR_INSPECT == set()


@pytest.mark.processes
@pytest.mark.parametrize("line", NEEDS_NOTHING_SLOW_BUT_TORCH)
def test_stages_import_only_what_they_need(line: str, files: Path, tmp_path: Path) -> None:
    images = {"images": load(files, "fmn")["images"][:4], "labels": load(files, "fmn")["labels"][:4]}
    save_file(images, tmp_path / "images.safetensors")
    places = {"OUT": tmp_path / "out", "IMAGES": tmp_path / "images.safetensors"}
    places |= {path.stem.upper(): path for path in files.glob("*.safetensors")}
    found = _modules(*(places.get(word, word) for word in line.split()))
    assert {"0", "torch"} <= found
    assert found & (THIRD_PARTY | COMPILER) == NEEDS_NOTHING_SLOW_BUT_TORCH[line]


@pytest.mark.processes
def test_bad_usage_and_missing_files_are_told_without_anything_slow(tmp_path: Path) -> None:
    for line in (["attack"], ["nothing"], ["inspect", tmp_path / "missing"], ["attack", "m", "--data", "digits"]):
        assert _imported(*line) & SLOW == set()


@pytest.mark.processes
def test_import_fmtool_is_light_and_names_what_it_has() -> None:
    code = "import sys, fmtool; dir(fmtool); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert set(found) & SLOW == set()
    assert all(getattr(fmtool, name) is not None for name in fmtool.__all__)
    with pytest.raises(AttributeError, match="nothing_at_all"):
        _ = fmtool.nothing_at_all


def test_version_names_what_fmtool_stands_on(run: Run) -> None:
    outcome = run("--version")
    assert outcome.code == 0
    names = ("fmtool", "torch", "torchvision", "foolbox", "safetensors", "Python")
    assert re.fullmatch(", ".join(rf"{name} \d\S*" for name in names) + "\n", outcome.out)


@pytest.mark.parametrize("line", [[], ["inspekt"], ["inspect", "--formatt", "csv"]])
def test_bad_usage_exits_with_2(line: list[str], run: Run) -> None:
    outcome = run(*line)
    assert outcome.code == 2 and "Traceback" not in outcome.err


# What is printed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "fmn", "essential", "plain", "correlation", "defense"])
def test_formats_say_the_same(name: str, run: Run, files: Path) -> None:
    path = files / f"{name}.safetensors"
    found = describe(str(path))
    table = registry.table_of(found.kind, found.header, found.arrays())

    parsed = json.loads(run("inspect", path, "--format", "json").out, parse_constant=pytest.fail)  # NaN is no JSON
    assert [list(row) for row in parsed["rows"]] == [table.headings()] * len(table.rows)
    assert parsed["title"] == table.title and parsed["notes"] == table.notes

    lines = list(csv.reader(io.StringIO(run("inspect", path, "--format", "csv").out)))
    assert lines[0] == table.headings() and len(lines) == 1 + len(table.rows)
    for line, row, values in zip(lines[1:], parsed["rows"], table.values(), strict=True):
        assert line == ["" if value is None else str(raw) for value, raw in zip(row.values(), values, strict=True)]

    rows = run("inspect", path, "--format", "markdown").out.split("\n\n")[0].strip().splitlines()
    assert len(rows) == 2 + len(table.rows) and re.fullmatch(r"\|( ---:? \|)+", rows[1])
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]] == table.cells()

    text = run("inspect", path).out
    assert all(cell in text for row in table.cells() for cell in row)


def test_nan_is_null_in_json_and_empty_in_csv() -> None:
    table = Table("t", {"a": ".3f", "b": ".3f", "c": ".3f"}, [[float("nan"), float("inf"), 1.5]])
    assert json.loads(as_json(table))["rows"] == [{"a": None, "b": None, "c": 1.5}]
    assert as_csv(table) == "a,b,c\n,,1.5\n"


def test_warnings_reach_those_who_call_the_stages_in_python(files: Path) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    with pytest.warns(FmtoolWarning, match="no mask is fitted to"):
        fmtool.class_masks(model, fmtool.load_data("digits", limit=5), min_steps=0, max_steps=3)


def test_table_can_be_had_without_a_file(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sides = [files / "essential.safetensors", files / "adversarial.safetensors"]
    outcome = run("correlate", *sides, "--permutations", 9, "--format", "csv", "--statistics", "cosine")
    assert outcome.code == 0 and outcome.out.startswith("statistic,n,observed,")
    assert list(tmp_path.iterdir()) == []
