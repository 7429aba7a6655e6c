"""How commands end: pipes and streams that are closed or full, signals, bugs."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run


def _hear() -> None:
    """A shell's background jobs, and so their children, are started deaf to Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.processes
def test_failure_before_a_pipe_is_told_behind_it(tmp_path: Path) -> None:
    tool = f"{sys.executable} -m fmtool"
    line = f"{tool} inspect {tmp_path}/missing | {tool} inspect -"
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert sorted(entry.partition(": expected")[0] for entry in found.stderr.splitlines()) == [
        f"fmtool: error: {tmp_path}/missing: can't be read: No such file or directory",
        "fmtool: error: standard input is empty",
    ]


@pytest.mark.processes
@pytest.mark.parametrize("form", ["table", "json"])
def test_closed_pipe_ends_quietly_with_1(form: str, files: Path) -> None:
    """Many files, so that the output is longer than a pipe holds."""
    some = " ".join([f"{files}/plain.safetensors"] * 300)
    line = f"{sys.executable} -m fmtool inspect --format {form} {some} | head -c 1; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and found.stderr == "" and len(found.stdout) == 1


@pytest.mark.processes
def test_pipe_closed_before_anything_is_written_ends_quietly_with_1(files: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", "fmtool", "inspect", str(files / "plain.safetensors")]
    found = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert found.returncode == 1 and found.stderr == ""


@pytest.mark.processes
def test_no_escape_codes_off_a_terminal_and_the_same_text(files: Path, tmp_path: Path) -> None:
    """FORCE_COLOR makes rich believe in a terminal: codes, and tables cut to its width."""
    code = (
        "from fmtool.__main__ import run_command\n"
        "from fmtool.cli import progress\n"
        "progress.SECONDS_BETWEEN_LINES = 1e9\n"  # a busy machine would add lines at different times
        "for name in ('model', 'plain', 'correlation', 'defense'):\n"
        f"    run_command(['inspect', f'{files}/{{name}}.safetensors', '--history'])\n"
        "for words in (['--help'], ['attack', '--help'], ['attack'], ['inspect', 'missing']): run_command(words)\n"
        f"few = '--data digits --limit 5 --max-steps 3 --min-steps 0 -o {tmp_path}/file'.split()\n"
        f"run_command(['class-masks', '{files}/model.safetensors', *few])"
    )
    terminal = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    plain, forced = (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}, capture_output=True, timeout=120)
        for more in ({}, terminal)
    )
    assert b"Table 4" in forced.stdout and b"warning" in forced.stderr and b"Usage" in forced.stderr
    assert b"\x1b" not in forced.stdout and b"\x1b" not in forced.stderr
    assert (forced.stdout, forced.stderr) == (plain.stdout, plain.stderr)


def test_interrupt_exits_with_130_and_leaves_nothing(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fmtool.masks.fitting.fit_each", interrupted)
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "essential"]
    outcome = run(*line, "-o", tmp_path / "file")
    assert outcome.code == 130 and "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_a_command_with_their_code(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """A file waited for on a named pipe stands for long work."""
    os.mkfifo(tmp_path / "fifo")
    line = [sys.executable, "-m", "fmtool", "inspect", str(tmp_path / "fifo")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hear)
    writer = _opened(tmp_path / "fifo", process)
    for seconds in (5, 60):
        process.send_signal(number)
        # Python can't see a signal that comes just before a system call begins to wait: then the next one does it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == code and out == "" and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo"]


def _opened(fifo: Path, process: subprocess.Popen[str]) -> int:
    """A named pipe, to be written, once the command has opened the other end."""
    while True:
        with contextlib.suppress(OSError):
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.processes
def test_an_interrupted_import_ends_a_command_with_130() -> None:
    """Whatever torch makes of Ctrl-C in the middle of it."""
    code = """
import signal, fmtool.__main__ as m
def run_command(arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RecursionError from None
m.run_command = run_command
m.main()
"""
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=_hear, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.processes
def test_nohup_stays_deaf(tmp_path: Path) -> None:
    code = "import signal, fmtool.__main__ as m; m.run_command = lambda _: signal.raise_signal(signal.SIGHUP); m.main()"
    assert subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


@pytest.mark.processes
def test_leaving_searches_nothing_for_garbage() -> None:
    code = """
import atexit, gc, sys, fmtool.__main__ as m
atexit.register(lambda: print(len(gc.get_objects()) < gc.get_freeze_count()))
m.run_command = lambda _: 3
m.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "True\n", "")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [(">&-", 1, "fmtool: error: standard output is closed\n"), ("- <&-", 1, "fmtool: error: standard input is empty"),
     ("2>&-", 0, ""), ("2>/dev/full", 0, "")],
)  # fmt: skip
def test_closed_and_full_streams(redirected: str, code: int, said: str, files: Path) -> None:
    source = "" if redirected.startswith("-") else f"{files}/plain.safetensors"
    line = f"{sys.executable} -m fmtool inspect {source} {redirected}"
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert found.returncode == code and found.stderr.startswith(said) and found.stderr.count("\n") == code


@pytest.mark.processes
@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1 "])
@pytest.mark.parametrize("line", ["fit-masks --help", "merge {files}/fmn.safetensors -o -"])
def test_output_on_a_full_disk_is_one_line(line: str, unbuffered: str, files: Path, tmp_path: Path) -> None:
    """Whether it is longer than a buffer, or its end alone can't be written."""
    command = f"ulimit -f 200; {unbuffered}{sys.executable} -m fmtool {line.format(files=files)} -q >> {tmp_path}/out"
    (tmp_path / "out").write_bytes(bytes(200 * 1024 - 900))
    found = subprocess.run(
        ["bash", "-c", command.replace("--help -q", "--help")], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 1 and re.fullmatch(r"fmtool: error: .*: File too large\n", found.stderr)


def _full() -> tuple[int, ...]:
    return (os.open("/dev/full", os.O_WRONLY),)


def _read_only() -> tuple[int, ...]:
    return (os.open(os.devnull, os.O_RDONLY),)


def _blocked() -> tuple[int, ...]:
    """A pipe that is full and doesn't wait until it is read; its other end is open until the command has ended."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    waiting.append(read)
    return (write,)


waiting: list[int] = []  # ends of pipes that nobody reads
STREAMS = {  # standard errors that can't be written: the descriptor, and its other end where that is closed by and by
    "full": _full,
    "read-only": _read_only,
    "blocked": _blocked,
    "pipe": lambda: tuple(reversed(os.pipe())),
    "terminal": lambda: tuple(reversed(pty.openpty())),
}
WRITES = {
    "a line": "print('line', file=sys.stderr)",
    "half a line": "print('half', end='', file=sys.stderr)",
    "more than a buffer holds": "print('line' * 100_000, file=sys.stderr)",
    "a warning": "warnings.warn('line')",
    "a log": "logging.warning('line')",
    "an error in a thread": "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()",
}
OFTEN = """
import os
from fmtool import __main__
from fmtool.cli import progress

ends, draw = ENDS, progress.Bar.__call__

def draw_and_lose(*arguments):
    draw(*arguments)
    while ends:
        os.close(ends.pop())

progress.SECONDS_BETWEEN_LINES, progress.Bar.__call__ = 0.0, draw_and_lose
__main__.main()
"""


@pytest.fixture(params=[*STREAMS, "closed"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[tuple[int | None, list[int]]]:
    """Standard error, or None for a closed one, and what has to be closed before it can't be written."""
    stream, *ends = STREAMS[request.param]() if request.param != "closed" else (None,)
    yield stream, ends
    for one in (stream, *ends, *waiting):
        if one is not None:
            os.close(one)
    waiting.clear()


def _ends_well(code: str, stream: int | None, ends: list[int], *words: str) -> bytes:
    """What a program prints that must end with 0; ends: to be left to it alone."""
    close = (lambda: os.close(2)) if stream is None else None
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=stream, pass_fds=ends, preexec_fn=close,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    while ends:
        os.close(ends.pop())
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out


@pytest.mark.processes
@pytest.mark.parametrize("write", WRITES)
def test_standard_error_that_cannot_be_written_ends_no_work(
    write: str, unwritable: tuple[int | None, list[int]]
) -> None:
    stream, ends = unwritable
    while ends:
        os.close(ends.pop())
    code = f"""
import logging, sys, threading, warnings
from fmtool import __main__
def run_command(arguments):
    {WRITES[write]}
    print("done")
    return 0
__main__.run_command = run_command
__main__.main()
"""
    assert _ends_well(code, stream, ends) == b"done\n"


@pytest.fixture(scope="module")
def progressing(files: Path) -> tuple[list[str], bytes]:
    """A command that shows its progress, warns, and prints a table beside the file on standard output, and that file."""
    words = f"class-masks {files}/model.safetensors --data digits --limit 50 --min-steps 0 --max-steps 3 -o -".split()
    code = [sys.executable, "-c", OFTEN.replace("ENDS", "[]"), *words]
    done = subprocess.run(code, capture_output=True, timeout=120)
    assert done.returncode == 0
    for part in (rb"^.*: \d+ of \d+$", b"^fmtool: warning: ", b"^Class masks"):
        assert re.search(part, done.stderr, re.M), done.stderr
    return words, done.stdout


@pytest.mark.processes
def test_standard_error_that_is_lost_in_the_middle_ends_no_work(
    unwritable: tuple[int | None, list[int]], progressing: tuple[list[str], bytes]
) -> None:
    stream, ends = unwritable
    words, file = progressing
    assert _ends_well(OFTEN.replace("ENDS", str(ends)), stream, ends, *words) == file


@pytest.mark.processes
def test_letters_that_a_stream_cannot_show_are_escaped(files: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "fmtool", "inspect", str(files / "fmn.safetensors")]
    found = subprocess.run(line, env={**os.environ, **plain}, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "") and "\\xb1" in found.stdout  # plus-minus


@pytest.mark.parametrize("more", [["-o", "{0}"], ["--output={0}"], ["-o", "{1}/../{2}/file"]])
def test_a_file_that_is_read_is_not_replaced(more: list[str], files: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "file"
    shutil.copy(files / "model.safetensors", file)
    words = [word.format(file, tmp_path, tmp_path.name) for word in more]
    outcome = run("attack", file, "--data", "digits", "--limit", 5, *words)
    assert outcome.code == 1 and "is an input of this command and would be replaced" in outcome.err
    assert file.read_bytes() == (files / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_an_output_may_be_called_like_the_value_of_an_option(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [
        "attack",
        files / "model.safetensors",
        "--data",
        "digits",
        "--limit",
        5,
        "--attack",
        "deepfool",
        "-o",
        "deepfool",
    ]
    assert run(*line).code == run(*line).code == 0


def test_bugs_give_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("fmtool.cli.inspect.describe", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run("inspect", "file")
