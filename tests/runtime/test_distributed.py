"""torchrun: the processes write one file, of the bytes of a single process; one that dies ends the job, which then goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Run

from fmtool.errors import FmtoolError, FmtoolWarning, ProcessError, warn
from fmtool.runtime import distributed
from fmtool.runtime.distributed import ALONE, VARIABLES, Ranks
from fmtool.runtime.resume_file import resuming

FIT = "fit-masks MODEL FMN --for essential --limit 24 --lambda 0.1 --min-steps 600 --max-steps 900 --batch-size 8"
ATTACK = "attack MODEL --data digits --limit 61 --attack fmn --batch-size 8"
ADAPTIVE = "attack MODEL --data digits --limit 40 --defense ROBUST --restarts 2 --epsilon 0.08 --batch-size 8"
CLASSES = "class-masks MODEL FMN --robust --min-steps 30 --max-steps 60 --batch-size 8"
OFTEN = "from fmtool.runtime import resume_file; resume_file.SECONDS_BETWEEN = 0.2; from fmtool.__main__ import main; main()"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def often(tmp_path: Path) -> Path:
    """fmtool as a script that saves more often, so that a test is short."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "often.py"
    path.write_text(OFTEN)
    return path


def words(line: str, files: Path, target: Path) -> list[str]:
    names = {name.upper(): str(files / f"{name}.safetensors") for name in ("model", "fmn", "robust")}
    return [*(names.get(word, word) for word in line.split()), "-o", str(target)]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "bin")


@pytest.mark.processes
@pytest.mark.parametrize(
    "line", [FIT, ATTACK, ADAPTIVE, CLASSES], ids=["fit-masks", "attack", "adaptive", "class-masks"]
)
def test_two_processes_write_the_bytes_of_one(line: str, files: Path, tmp_path: Path) -> None:
    outcomes = []
    for before, name in (([sys.executable], "one"), (TORCHRUN, "two")):
        done = subprocess.run(
            [*before, "-m", "fmtool", *words(line, files, tmp_path / name)],
            capture_output=True, text=True, timeout=300, env=ONE_THREAD,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outcomes.append(done)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    assert outcomes[1].stdout == outcomes[0].stdout  # the table, once
    assert left(tmp_path) == ["one", "two"]


@pytest.mark.processes
def test_a_process_that_dies_ends_the_job_which_then_goes_on(files: Path, tmp_path: Path, often: Path) -> None:
    """The others save what they have. The same command gives the bytes that it would have given."""
    line = FIT.replace("--min-steps 600", "--min-steps 2500").replace("--max-steps 900", "--max-steps 3000")
    target = tmp_path / "target"
    command = [*TORCHRUN, str(often), *words(line, files, target)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)
    sides = [tmp_path / ".target.resume", tmp_path / ".target.resume.1-of-2"]
    sizes = (1 << 15,) * 2  # more than empty tables
    deadline = time.monotonic() + 120
    while not all(side.exists() and side.stat().st_size > size for side, size in zip(sides, sizes, strict=True)):
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.05)
    (victim,) = [child for child in children(job.pid) if environment(child).get("RANK") == "1"]
    os.kill(victim, signal.SIGKILL)
    _, err = job.communicate(timeout=120)
    assert job.returncode != 0 and "rank      : 1" in err and "Signal 9 (SIGKILL)" in err, err
    assert err.count("progress is saved: run the same command again to resume") == 1, err
    assert not target.exists() and all(side.exists() for side in sides)
    subprocess.run(command, check=True, capture_output=True, env=ONE_THREAD, timeout=300)
    whole = [sys.executable, "-m", "fmtool", *words(line, files, tmp_path / "whole")]
    subprocess.run(whole, check=True, capture_output=True, env=ONE_THREAD, timeout=300)
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()
    assert left(tmp_path) == ["target", "whole"]


def test_the_saved_work_of_another_number_of_processes_is_removed_with_a_line(tmp_path: Path) -> None:
    target, work = str(tmp_path / "x"), {"work": 1}
    saved = pytest.warns(FmtoolWarning, match="progress is saved")
    with pytest.raises(KeyboardInterrupt), saved, resuming(target, work, rank=(1, 2)) as journal:
        journal.finish_row(0, {"mask": torch.zeros(2)})
        raise KeyboardInterrupt
    (tmp_path / ".x.resume.1-of-2.lock").touch()  # as SIGKILL leaves it
    told = "x: what 2 processes have saved is of no use to 1 and is removed$"
    with pytest.warns(FmtoolWarning, match=told), resuming(target, work):
        assert left(tmp_path) == [".x.resume", ".x.resume.lock"]


def children(process: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if path.read_text().rpartition(")")[2].split()[1] == str(process):
                yield int(path.parent.name)
        except OSError:  # has ended meanwhile
            continue


def environment(process: int) -> dict[str, str]:
    text = Path(f"/proc/{process}/environ").read_bytes().decode()
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


@pytest.mark.processes
def test_other_commands_and_standard_input_are_refused(files: Path, tmp_path: Path) -> None:
    """In one line each; nothing waits for anything."""
    fit = FIT.replace("FMN", "-")
    for line, message in (
        ("inspect MODEL", "inspect runs in one process"),
        (fit, "standard input can't be read by several"),
    ):
        arguments = words(line, files, tmp_path / "x")[: None if line is fit else -2]
        as_rank = {**ONE_THREAD, "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "fmtool", *arguments], capture_output=True, text=True, env=as_rank, timeout=60
        )
        assert done.returncode == 1 and re.fullmatch(rf"fmtool: error: {message}[^\n]+\n", done.stderr), done.stderr
    assert left(tmp_path) == []


def test_the_environment_of_torchrun_is_needed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE alone, as some clusters set it, means nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.world() == (0, 1)
    distributed.refuse_ranks("inspect", ["attack"])
    with distributed.joined("-") as ranks:
        assert ranks is ALONE
    for name, value in zip(VARIABLES, ("3", "4", "host", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert distributed.world() == (3, 4)
    with pytest.raises(FmtoolError, match="inspect runs in one process: expected attack under torchrun"):
        distributed.refuse_ranks("inspect", ["attack"])
    distributed.refuse_ranks("attack", ["attack"])


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless one is named, or there are none; more processes than GPUs share them."""
    import torch

    monkeypatch.setenv("LOCAL_RANK", "5")
    cases = (
        (8, "auto", "cuda:5"),
        (4, "cuda", "cuda:1"),
        (8, "cuda:2", "cuda:2"),
        (8, "cpu", "cpu"),
        (0, "auto", "auto"),
    )
    for count, name, expected in cases:
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert Ranks(5, 8).device(name) == expected
    assert ALONE.device("auto") == "auto"


@pytest.mark.parametrize(
    "wrong", [{"RANK": "abc"}, {"RANK": "2"}, {"WORLD_SIZE": "0"}, {"MASTER_PORT": "1x"}, {"MASTER_PORT": "70000"}]
)
def test_an_environment_that_torchrun_did_not_make_is_one_line(
    wrong: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {**right, **wrong}.items():
        monkeypatch.setenv(name, value)
    outcome = run("inspect", "file")
    ((name, value),) = wrong.items()
    assert outcome.code == 1 and outcome.out == "" and outcome.err.count("\n") == 1
    assert f"{name}={value}" in outcome.err and "which torchrun would not set" in outcome.err


def test_processes_that_can_not_meet_are_told(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in zip(VARIABLES, ("0", "2", "127.0.0.1", str(port)), strict=True):
            monkeypatch.setenv(name, value)
        outcome = run(*words(FIT, files, tmp_path / "never"))
    assert outcome.code == 1 and list(tmp_path.iterdir()) == []
    assert outcome.err.splitlines()[-1].startswith(f"fmtool: error: the processes can't connect at 127.0.0.1:{port}: ")


def test_one_form_of_the_network_is_recorded_and_so_runs_everywhere() -> None:
    from torch.distributed import HashStore

    store = HashStore()
    ALONE.check_form(True)
    Ranks(0, 3, store).check_form(True)
    Ranks(1, 3, store).check_form(True)
    with pytest.raises(
        FmtoolError, match=r"^the network runs uncompiled in process 2 but compiled in process 0: pass --no"
    ):
        Ranks(2, 3, store).check_form(False)


def test_inputs_that_differ_between_processes_are_refused() -> None:
    """As where one machine's copy of the model is out of date: rank 0 would record its own for all rows."""
    from torch.distributed import HashStore

    store = HashStore()
    ALONE.check_work("one")
    Ranks(0, 3, store).check_work("one")
    Ranks(1, 3, store).check_work("one")
    with pytest.raises(ProcessError, match=r"^process 2 has other inputs, options or versions than process 0"):
        Ranks(2, 3, store).check_work("other")


def test_the_first_process_leaves_last_but_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun's agent it holds the store, and the others ask that for the end."""
    from torch.distributed import HashStore

    store = HashStore()
    store.set("left 1", "")
    began = time.monotonic()
    Ranks(0, 2, store).written()
    assert store.check(["written"]) and time.monotonic() - began < 5
    monkeypatch.setattr(distributed, "FAREWELL", 0.3)
    Ranks(0, 3, store).written()


def test_a_process_that_fails_ends_the_wait_of_the_others() -> None:
    """What they have saved stays, for the job can go on."""
    from torch.distributed import HashStore

    store = HashStore()
    store.set(distributed.FAILED, "1")
    with pytest.raises(ProcessError, match=r"^process 1 has ended with an error$"):
        next(Ranks(0, 2, store).gathered([]))

    class Gone:
        def check(self, _: object) -> bool:
            raise RuntimeError("Failed to recv, got 0 bytes")

    with pytest.raises(ProcessError, match=r"^process 0 has ended$"):
        Ranks(1, 2, Gone()).check_form(True)


def test_warnings_of_the_other_processes_reach_the_reader_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import HashStore

    store = HashStore()
    monkeypatch.setattr(distributed, "_received", lambda rank: iter([(rank, b"row")]))
    told = ["of all", "4 of its images"]
    store.set("finished 1", json.dumps(told))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        lead = Ranks(0, 2, store)
        with distributed._noting(lead):
            warn("of all")
            assert list(lead.gathered([(0, b"row")])) == [(0, b"row"), (1, b"row")]
    assert [str(one.message) for one in seen] == ["of all", "process 1: 4 of its images"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")  # as the command line does on the other ranks
        other = Ranks(1, 2, store)
        with distributed._noting(other):
            for text in told:
                warn(text)
    assert other.told == told and not seen


def test_without_a_command_the_environment_is_no_matter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("0", "2", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert run("--version").code == 0
    assert run("inspect", "x").err.startswith("fmtool: error: inspect runs in one process")
