"""The wheel, and the versions that pyproject.toml promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import fmtool

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves folders behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "fmtool", copy / "fmtool", ignore=shutil.ignore_patterns("__pycache__"))
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", ".", "--no-deps", "--no-build-isolation", "-w", "wheels"]
    done = subprocess.run(line, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = (copy / "wheels").glob("*.whl")
    return found


@pytest.mark.processes
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = [path for path in (ROOT / "fmtool").rglob("*") if path.suffix in (".py", ".html")]
    assert names == {path.relative_to(ROOT).as_posix() for path in sources}
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    extras = PROJECT["project"]["optional-dependencies"].values()
    needed = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    assert text.count("\nRequires-Dist: ") == len(needed)


@pytest.mark.processes
@pytest.mark.long
def test_the_installed_wheel_runs_the_quickstart(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own outside the repository, which sees what fmtool stands on where this one has it."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    given = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH"
    }  # where pip would find one installed
    given["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"

    def output(*words: object) -> str:
        done = subprocess.run(list(map(str, words)), cwd=tmp_path, env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output("python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "around.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy(ROOT / "examples" / "quickstart.sh", tmp_path)
    assert output("python", "-c", "import fmtool; print(fmtool.__file__)").startswith(str(environment))
    assert "Table 4" in output("bash", "quickstart.sh")
    made = {path.name for path in (tmp_path / "quickstart-output").iterdir()}
    assert {"defense.safetensors", "correlation-fmn.safetensors", "masks.png"} <= made
    defense = fmtool.read(str(tmp_path / "quickstart-output" / "defense.safetensors"))
    assert defense.history[0]["versions"]["fmtool"] == PROJECT["project"]["version"]
    assert "Files" in output("fmtool", "verify", *sorted((tmp_path / "quickstart-output").glob("*.safetensors")))


def test_the_lowest_versions_that_are_promised_are_those_that_are_tested() -> None:
    """`tests/run.sh --full` installs them from this list."""
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for name in extras if name != "test" for line in extras[name])]
    promised = [re.match(r"([a-z0-9-]+)>=([\d.]+)", line.lower()) for line in lines]
    tested = dict(line.split("==") for line in (ROOT / "tests" / "constraints-minimum.txt").read_text().split())
    assert all(promised) and {one[1] for one in promised if one} == set(tested)
    for one in promised:
        assert one and re.fullmatch(rf"{re.escape(one[2])}(\.0)*", tested[one[1]])


def test_every_dependency_is_pinned_for_the_tests() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "tests" / "constraints.txt").read_text().split()}
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]]
    assert {re.split(r"[<>=]", line)[0].lower() for line in needed} <= pinned
