"""Commands that were killed go on: the bytes of a run that nobody interrupted, and what is said and left on the way."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from resume_files import wait_for_work

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.errors import FmtoolWarning
from fmtool.runtime import resume_file

# what a user runs, but saved more often, so that a test is short; a shell's background jobs are started deaf to Ctrl-C
OFTEN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from fmtool.runtime import resume_file; resume_file.SECONDS_BETWEEN = 0.2; from fmtool.__main__ import main; main()"
)
FIT = "fit-masks MODEL FMN --for essential --lambda 0.1 --limit 40 --min-steps 2000 --max-steps 2500 --batch-size 16"
LONG = FIT.replace("2000", "60000").replace("2500", "60000")  # never over before it is stopped
ATTACK = "attack MODEL --data digits --limit 240 --attack fmn --attack-option steps=200 --batch-size 8"
SAVED = "fmtool: warning: progress is saved: run the same command again to resume"


def command(line: str, files: Path, target: Path) -> list[str]:
    names = {name.upper(): str(files / f"{name}.safetensors") for name in ("model", "fmn")}
    return [sys.executable, "-c", OFTEN, *(names.get(word, word) for word in line.split()), "-o", str(target)]


def begin(line: str, files: Path, target: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, as soon as it has saved something, more than another left."""
    side = target.with_name(f".{target.name}.resume")
    before = side.exists()
    process = subprocess.Popen(command(line, files, target), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_work(side, lambda: process.poll() is None)
    if before:
        saved(process, side)
    return process


def saved(process: subprocess.Popen[str], side: Path) -> None:
    """Wait until the resume file is written the next time."""
    known = side.stat().st_mtime_ns
    deadline = time.monotonic() + 120
    while side.stat().st_mtime_ns == known:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(line: str, files: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(line, files, target), capture_output=True, text=True, timeout=300)


def counts(target: Path) -> tuple[int, int]:
    """How many rows and states the resume file has; reading it rolls back what was not committed."""
    database = sqlite3.connect(target.with_name(f".{target.name}.resume"))
    try:
        return tuple(database.execute(f"select count(*) from {name}").fetchone()[0] for name in ("rows", "states"))  # type: ignore[return-value]
    finally:
        database.close()


@pytest.mark.processes
@pytest.mark.parametrize("line", [FIT, ATTACK], ids=["fit-masks", "attack"])
def test_killed_five_times_it_gives_the_bytes_of_an_uninterrupted_run(line: str, files: Path, tmp_path: Path) -> None:
    whole, target = tmp_path / "whole", tmp_path / "target"
    expected = finish(line, files, whole)
    assert expected.returncode == 0, expected.stderr
    draw, progress = random.Random(0), []
    for _ in range(5):
        process = begin(line, files, target)
        for _ in range(draw.randint(0, 2)):
            saved(process, target.with_name(".target.resume"))
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not target.exists()
        progress.append(sum(counts(target)))
    assert progress[-1] > 0, progress
    found = finish(line, files, target)
    assert (found.returncode, found.stdout) == (0, expected.stdout), found.stderr
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "whole"]


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(number: int, code: int, files: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    process = begin(LONG, files, target)
    saved(process, target.with_name(".target.resume"))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and out == "" and err.splitlines().count(SAVED) == 1, err
    assert "Traceback" not in err and not target.exists()
    assert sum(counts(target)) >= 16  # a state of each mask in the batch


class InterruptError(Exception):
    """Stands for whatever ends a run."""


def after(calls: int) -> Any:
    """A progress callback that ends the run at its nth call about the work itself, not about passes before and after it."""
    left = iter(range(calls))

    def report(label: str, done: int, total: int) -> None:
        if label.startswith(("attacking", "fitting")) and next(left, None) is None:
            raise InterruptError

    return report


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"attack": "fmn"}, {"attack": "LInfFMNAttack"}, {"attack": "L2AdditiveGaussianNoiseAttack", "epsilon": 2.0},
             {"defense": "robust", "restarts": 2, "epsilon": 0.08, "attack_options": {"steps": 10}}],
    ids=["fmn", "class", "one generator", "adaptive"],
)  # fmt: skip
@pytest.mark.usefixtures("often")
def test_an_attack_goes_on_after_each_of_its_batches(more: dict[str, Any], files: Path, tmp_path: Path) -> None:
    """Also one that draws from torch's generator, batch by batch, and one of several tries."""
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=50)
    if "defense" in more:
        more = {**more, "defense": fmtool.read(str(files / "robust.safetensors"))}
    whole, target = str(tmp_path / "whole"), str(tmp_path / "target")
    fmtool.attack(model, data, **more, execution=fmtool.Execution(batch_size=16, output=whole))
    ended = 0
    while True:
        execution = fmtool.Execution(batch_size=16, output=target, progress=after(0))
        try:
            fmtool.attack(model, data, **more, execution=execution)
            break
        except InterruptError:
            ended += 1
    assert ended >= 3
    assert Path(target).read_bytes() == Path(whole).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "whole"]


@pytest.mark.slow
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "options",
    [
        {"lambda_": 0.1, "min_steps": 400, "max_steps": 700, "perturb": 0.01},
        {"lambda_": 8.0, "min_steps": 100, "max_steps": 150, "perturb": 0.01, "adapt_lambda": True, "basis": "dct"},
    ],
    ids=["perturbed", "adapted"],
)
def test_masks_go_on_from_the_middle_of_their_steps(
    options: dict[str, Any], files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run ended again and again before any mask of it is finished comes to an end, with perturbed starts too."""
    from fmtool.masks import fitting

    monkeypatch.setattr(fitting, "REPORT_EVERY", 0.01)
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    few: dict[str, Any] = {**options, "limit": 20}
    whole = fmtool.fit_masks(model, attack, for_="essential", **few, execution=fmtool.Execution(batch_size=8))
    ended = 0
    while True:
        execution = fmtool.Execution(batch_size=8, output=str(tmp_path / "x"), progress=after(20))
        try:
            found = fmtool.fit_masks(model, attack, for_="essential", **few, execution=execution)
            break
        except InterruptError:
            ended += 1
    assert ended >= 3
    assert found.digest == whole.digest and found.header == whole.header
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def interrupted(model: Artifact, attack: Artifact, target: Path, **more: Any) -> None:
    execution = fmtool.Execution(output=str(target), progress=after(1))
    with pytest.raises(InterruptError):
        fmtool.fit_masks(model, attack, for_="essential", lambda_=0.1, **more, execution=execution)


@pytest.mark.slow
def test_another_option_begins_anew_and_says_so(files: Path, tmp_path: Path, run: Run) -> None:
    """--restart does so without a warning, and the same command resumes without one."""
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    target = tmp_path / "target"
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", "--min-steps", 50,
            "--lambda", 0.1, "-o", target]  # fmt: skip
    expected = fmtool.fit_masks(model, attack, for_="essential", lambda_=0.1, min_steps=50)
    for more, said in ((["--max-steps", 51], True), (["--restart"], False), ([], False)):
        interrupted(model, attack, target, min_steps=50)
        assert (tmp_path / ".target.resume").exists()
        outcome = run(*line, *more)
        assert (
            outcome.code == 0 and ("target: starting over: the saved progress belongs to other" in outcome.err) == said
        )
    assert fmtool.read(str(target)).digest == expected.digest
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.processes
def test_two_commands_on_one_target(files: Path, tmp_path: Path, run: Run) -> None:
    """The second is refused in one line; the first does not notice."""
    target = tmp_path / "target"
    process = begin(LONG, files, target)
    outcome = run("attack", files / "model.safetensors", "--data", "digits", "--limit", 10, "-o", target)
    assert outcome.code == 1 and outcome.err == f"fmtool: error: {target}: another command is writing it\n"
    assert process.poll() is None and (tmp_path / ".target.resume").exists()
    process.kill()
    process.communicate()
    assert not target.exists()


@pytest.mark.processes
def test_a_stream_has_nothing_to_go_on_from(files: Path, tmp_path: Path, run: Run) -> None:
    assert "resumes when it is run again, if -o names a file" in " ".join(run("fit-masks", "--help").out.split())
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential", "--min-steps", 5,
            "--max-steps", 6]  # fmt: skip
    expected = run(*line, "-o", tmp_path / "x")
    assert expected.code == 0
    piped = subprocess.run(
        [sys.executable, "-m", "fmtool", *map(str, line), "-o", "-"], capture_output=True, cwd=tmp_path, check=True
    )
    assert piped.stdout == (tmp_path / "x").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_network_whose_gradients_hang_on_the_slot_is_told(files: Path) -> None:
    """Its runs may differ in bits when they are resumed or shared."""
    import torch
    from torch import nn

    from fmtool.masks.levels import make_levels
    from fmtool.masks.optimisation import FitOptions
    from fmtool.models.inspection import same_in_any_slot

    class DependsOnItsSlot(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            score = images.mean(dim=(1, 2, 3)) * (1 + 1e-6 * torch.arange(len(images)))
            return torch.stack([score, -score], dim=1)

    images, targets, cpu = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), torch.device("cpu")
    with pytest.warns(FmtoolWarning, match="here an image's steps depend on its position in the batch"):
        make_levels(DependsOnItsSlot(), images, targets, FitOptions(0.1, 8, min_steps=500, max_steps=5000), cpu)
    assert not same_in_any_slot(DependsOnItsSlot(), images, targets, 8, cpu)
    assert same_in_any_slot(nn.Flatten(), images, targets, 8, cpu)
