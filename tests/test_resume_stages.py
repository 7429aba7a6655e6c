"""class-masks, correlate and train-model, killed and started again: real processes, forked where torch is imported already."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from dying import live, through
from resume_files import wait_for_work
from safetensors.torch import save_file

from fmtool.masks.class_fitting import ClassMasks, Part, fit_class_masks
from fmtool.masks.optimisation import FitOptions
from fmtool.models.classifier import Classifier, prepare
from fmtool.models.registry import ARCHITECTURES
from fmtool.runtime import resume_file
from fmtool.runtime.journal import NO_JOURNAL, Journal

KILLS = 5
# Some seconds of work each. MODEL, ATTACK, A and B stand for files.
COMMANDS = {
    "class-masks": "class-masks MODEL --data digits --limit 100 --min-steps 500 --max-steps 500",
    "robust": "class-masks MODEL ATTACK --robust --min-steps 200 --max-steps 200",
    "correlate": "correlate A B --statistics idcor,svcca --permutations 200 --class-subsets --subsample 60,150 --draws 3",
    "trim": "correlate ESSENTIAL ADVERSARIAL --statistics svcca,cka --permutations 3000 --trim 0,0.5",
    "train-model": "train-model --data digits --architecture resnet8 --recipe one-cycle --epochs 10 --batch-size 32 "
    "--augment flip-crop --limit 700",
    "head-only": "train-model --data digits --from MODEL --head-only --epochs 80 --batch-size 16",
}


@functools.cache
def forking() -> ForkServerContext:
    """Processes that begin with all that is slow to import."""
    context = multiprocessing.get_context("forkserver")
    stages = [f"fmtool.stages.{name}" for name in ("class_masks", "correlate", "train_model")]
    context.set_forkserver_preload([*stages, "fmtool.cli", "fmtool.correlation.statistics.idcor", "sklearn.datasets"])
    return context


class Command:
    """One of COMMANDS, and what it gives undisturbed."""

    def __init__(self, name: str, folder: Path, files: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        where = {
            "MODEL": files / "model.safetensors",
            "ATTACK": files / "fmn.safetensors",
            "ESSENTIAL": files / "essential.safetensors",
            "ADVERSARIAL": files / "adversarial.safetensors",
            "A": folder.parent / "a.safetensors",
            "B": folder.parent / "b.safetensors",
        }
        self.target, self.log = folder / "made.safetensors", folder.parent / f"{name}.log"
        self.side = folder / ".made.safetensors.resume"
        self.line = [str(where.get(word, word)) for word in COMMANDS[name].split()]
        process = self.start()
        start = self.wait(process)
        process.join(120)
        self.seconds = time.monotonic() - start  # of work that is kept
        assert process.exitcode == 0, self.log.read_text()
        self.whole = self.target.read_bytes()
        self.target.unlink()

    def start(self, *more: str) -> ForkServerProcess:
        process = forking().Process(target=live, args=([*self.line, "-o", str(self.target), *more], str(self.log)))
        process.start()
        return process

    def finish(self, *more: str) -> int | None:
        process = self.start(*more)
        process.join(120)
        return process.exitcode

    def wait(self, process: ForkServerProcess) -> float:
        """Until there is a resume file; when that was."""
        while process.is_alive() and not self.side.exists():
            time.sleep(0.005)
        return time.monotonic()

    def begun(self) -> bool:
        """Whether the resume file that a killed process left holds a state."""
        if not self.side.exists():
            return False
        database = sqlite3.connect(self.side)
        try:
            return bool(database.execute("select count(*) from states").fetchone()[0])
        except sqlite3.OperationalError:  # killed before there was a table
            return False
        finally:
            database.close()

    def stop(self, number: signal.Signals) -> ForkServerProcess:
        """A process that had saved something when the signal came, ended."""
        process = self.start()
        wait_for_work(self.side, process.is_alive)
        os.kill(process.pid or 0, number)
        process.join(60)
        return process


@pytest.fixture(scope="module")
def command(files: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """COMMANDS by name, each run once undisturbed."""
    folder = tmp_path_factory.mktemp("commands")
    first = forking().Process(target=int)  # so that no command's time is that of the imports
    first.start()
    first.join()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 30, generator=generator)
    save_file({"x": x, "labels": torch.arange(200) % 4}, folder / "a.safetensors")
    save_file({"y": x + torch.randn(200, 30, generator=generator)}, folder / "b.safetensors")
    return functools.cache(lambda name: Command(name, folder / name, files))


@pytest.mark.processes
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_five_times_it_gives_the_same_bytes(name: str, command: functools.partial[Command]) -> None:
    it, kills, begun = command(name), 0, 0
    moments = random.Random(f"{name} {time.time()}")
    while kills < KILLS or (not begun and kills < 8 * KILLS):
        # later and later where nothing was begun yet: the first steps may take longer than all others
        process, moment = it.start(), moments.uniform(0, 0.5 + 0.5 * (kills > KILLS)) * it.seconds
        it.wait(process)
        process.join(moment)
        if process.is_alive():
            process.kill()
            process.join()
            kills, begun = kills + 1, begun + it.begun()
        else:
            assert process.exitcode == 0, it.log.read_text()
        if it.target.exists():  # whole, though it may have been killed since: once more from the start
            assert it.target.read_bytes() == it.whole
            it.target.unlink()
    assert begun, f"never killed in {it.seconds} s while there was something to go on from"
    assert it.finish() == 0, it.log.read_text()
    assert it.target.read_bytes() == it.whole
    assert [path.name for path in it.folder.iterdir()] == [it.target.name]
    assert "anew" not in it.log.read_text()
    it.target.unlink()


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_say_how_to_go_on(number: signal.Signals, code: int, command: functools.partial[Command]) -> None:
    it = command("train-model")
    it.log.unlink(missing_ok=True)
    assert it.stop(number).exitcode == code
    assert it.begun() and not it.target.exists()
    said = [line for line in it.log.read_text().splitlines() if line.startswith("fmtool: warning:")]
    assert said == ["fmtool: warning: progress is saved: run the same command again to resume"]
    assert "Traceback" not in it.log.read_text()
    assert it.finish() == 0 and it.target.read_bytes() == it.whole
    assert [path.name for path in it.folder.iterdir()] == [it.target.name]
    it.target.unlink()


@pytest.mark.processes
def test_another_option_begins_anew_and_says_so(command: functools.partial[Command]) -> None:
    it = command("train-model")
    it.stop(signal.SIGKILL)
    assert it.begun()
    it.log.unlink(missing_ok=True)
    assert it.finish("--seed", "1") == 0
    assert f"{it.target}: starting over: the saved progress belongs to other inputs or options" in it.log.read_text()
    other = it.target.read_bytes()
    assert other != it.whole
    assert it.finish("--seed", "1") == 0 and it.target.read_bytes() == other
    it.target.unlink()


FEW = {
    "class-masks": "class-masks MODEL --data digits --limit 20 --min-steps 1 --max-steps 1",
    "correlate": "correlate MASKS MASKS --statistics cosine --permutations 2",
    "train-model": "train-model --data digits --architecture resnet8 --epochs 1 --limit 20",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_restart_reaches_the_resume_file(
    name: str, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    resuming = resume_file.resuming

    def spy(target: str | None, work: dict[str, object], *, restart: bool = False, **more: Any) -> object:
        asked.append(restart)
        return resuming(target, work, restart=restart, **more)

    monkeypatch.setattr(resume_file, "resuming", spy)
    where = {"MODEL": files / "model.safetensors", "MASKS": files / "essential.safetensors"}
    line = [where.get(word, word) for word in FEW[name].split()]
    assert run(*line, "-o", tmp_path / "made").code == run(*line, "-o", tmp_path / "made", "--restart").code == 0
    assert asked == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.slow
def test_class_masks_that_are_killed_are_the_same() -> None:
    """After its first step, and when some classes have finished: two parts, one class in the second alone, one in none."""
    torch.manual_seed(0)
    classifier = prepare(Classifier(ARCHITECTURES["resnet8"].build(1, 4)), torch.device("cpu"), (1, 8, 8))
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(40, 1, 8, 8, generator=generator), torch.arange(40) % 2
    parts = [Part(images[:20], labels[:20], labels[:20]), Part(images, labels, torch.arange(40) % 3)]
    options = FitOptions(0.01, 8, min_steps=25, max_steps=60, tolerance=0.1)

    def fit(journal: Journal) -> ClassMasks:
        return fit_class_masks(classifier, parts, range(4), options, journal=journal)

    whole = fit(NO_JOURNAL)
    assert whole.steps[3] == 0 and len(set(whole.steps.tolist())) > 2, whole.steps
    found = through(fit, [0, 1, 19, int(whole.steps[:3].min()), int(whole.steps.max()) - 2])
    for name, values in whole.tensors().items():
        assert torch.equal(getattr(found, name).nan_to_num(-1), values.nan_to_num(-1)), name
