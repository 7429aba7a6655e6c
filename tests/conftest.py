"""What tests share: a command line that runs in this process, a small trained model, and one file of every kind."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fmtool
from fmtool.__main__ import run_command
from fmtool.artifacts.format import Artifact

if TYPE_CHECKING:
    from torch import Tensor, nn

os.environ.pop("PYTHONUNBUFFERED", None)  # without buffers, streams that can't be written have fewer ways to fail
os.environ["NUMBA_NUM_THREADS"] = "2"  # also on one processor: what must not depend on the number is tried with two

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


Sources = Callable[[Path], list[str]]
FACTORY = """
import torch
from torch import nn

BEFORE

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        FORWARD

def make():
    return Small()
"""


@dataclass(frozen=True)
class Outcome:
    """A finished command: its exit code and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def pixel_key(pixels: np.ndarray[Any, Any]) -> int:
    """The first 8 bytes of the sha256 of the image's pixels, as a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "little", signed=True)


STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")  # audit events
LOOKUPS = {"ldconfig", "gcc", "ld", "objdump", "git", "uname", "lscpu", "fc-list"}  # of libraries, when first imported
started: list[str] = []  # what the running test started


def _note_process(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS and not (arguments and Path(str(arguments[0])).name in LOOKUPS):
        started.append(f"{event} {arguments[:1]}")


def pytest_configure() -> None:
    sys.addaudithook(_note_process)


@pytest.fixture(autouse=True)
def _imports_only_from_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling a factory leaves the current folder on the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def _says_that_it_starts_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without tests so marked (`tests/run.sh --fast`) no test starts a process. What is set up for several is not counted."""
    started.clear()
    yield
    if started and "not processes" in request.config.getoption("markexpr"):
        pytest.fail(f"starts a process ({started[0]}): mark it with pytest.mark.processes")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `fmtool ARGUMENTS...` in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run_command([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set how many threads torch and Numba have in this thread, Numba at most 2; both come back."""
    import numba
    import torch

    before = torch.get_num_threads(), numba.get_num_threads()

    def call(threads: int) -> None:
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, 2))

    yield call
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real images and weights are not at hand ({SHARED.name}/ beside the repository)")
    return SHARED


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small file of every kind, all made from one another on the digits; never written to by tests.

    model, fmn (attack on 60 test images), essential and adversarial (masks, few steps), plain and robust (class masks),
    correlation, defense and heatmap, each NAME.safetensors.
    """
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


def commands_with(option: str) -> list[str]:
    """The commands that have an option, by the application itself: a table of tests that lacks one fails."""
    import typer

    from fmtool.cli import app

    group = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return [name for name, command in group.items() if any(option in one.opts for one in command.params)]


@pytest.fixture
def load(files: Path) -> Callable[[str], Artifact]:
    """A shared file by its name."""
    return lambda name: fmtool.read(str(files / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def trained(files: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The small trained model of the digits, images that it gets right, their labels."""
    from fmtool.stages.prepare import ready_model

    attacked = fmtool.read(str(files / "fmn.safetensors"))
    ready = ready_model(fmtool.read(str(files / "model.safetensors")), fmtool.Execution(device="cpu"))
    right = attacked["status"] != 1
    return ready.classifier, attacked["images"][right], attacked["labels"][right]


def factory(forward: str, before: str = "") -> str:
    """A module whose `make` gives a network for the digits; forward: lines of its forward pass, before: of the module."""
    return FACTORY.replace("FORWARD", forward.replace("\n", "\n        ")).replace("BEFORE", before)


def make_files(folder: Path) -> None:
    """Fill a folder for the fixture above."""
    few = {"min_steps": 30, "max_steps": 60}
    model = fmtool.train_model(
        fmtool.load_data("digits:train"), fmtool.load_data("digits:test"),
        architecture="resnet8", recipe="one-cycle", epochs=6, learning_rate=0.05, batch_size=32,
    )  # fmt: skip
    attacked = fmtool.attack(model, fmtool.load_data("digits:test", limit=60), attack="fmn")
    essential = fmtool.fit_masks(model, attacked, for_="essential", lambda_=0.1, **few)
    adversarial = fmtool.fit_masks(model, attacked, for_="adversarial", lambda_=0.1, **few)
    plain = fmtool.class_masks(model, fmtool.load_data("digits:train", limit=100), **few)
    robust = fmtool.class_masks(model, attacked, robust=True, **few)
    made = {
        "model": model, "fmn": attacked, "essential": essential, "adversarial": adversarial, "plain": plain,
        "robust": robust, "correlation": fmtool.correlate(essential, adversarial, permutations=9),
        "defense": fmtool.defend(model, [attacked], [robust, plain]),
        "heatmap": fmtool.heatmap(model, fmtool.load_data("digits:test", limit=20), filters=True),
    }  # fmt: skip
    for name, artifact in made.items():
        fmtool.write(artifact, str(folder / f"{name}.safetensors"))


@pytest.fixture
def both(tmp_path: Path) -> Sources:
    """A folder as it is and as a zip."""

    def call(folder: Path) -> list[str]:
        return [str(folder), shutil.make_archive(str(tmp_path / folder.name), "zip", folder)]

    return call
