"""From a command line to an exit code: what each kind of error becomes. Streams and signals are in test_streams.py."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import Run

from fmtool import __main__ as main_module
from fmtool.__main__ import run_command
from fmtool.errors import FmtoolError


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser raises this, whatever it is asked to do."""

    def parser(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fmtool.cli.parser", parser)


def debugged() -> FmtoolError:
    error = FmtoolError("no such thing")
    error.debug = True
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("text"), 1, ""),
        (FmtoolError("two\nlines"), 1, "fmtool: error: two lines\n"),
    ],
)
def test_each_error_has_its_exit_code_and_at_most_one_line(
    error: BaseException, code: int, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(error, monkeypatch)
    outcome = run("inspect")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", said)


def test_debug_shows_the_traceback_before_the_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(debugged(), monkeypatch)
    outcome = run("inspect")
    assert outcome.code == 1 and outcome.err.startswith("Traceback (most recent call last)")
    assert outcome.err.endswith("\nfmtool: error: no such thing\n")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EPIPE, ""), (errno.ENOSPC, "fmtool: error: standard output can't be written: No space left on device\n")],
)
def test_output_that_cannot_be_written_is_bad_luck_and_no_bug(
    number: int, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still in a buffer goes nowhere."""
    monkeypatch.setattr("fmtool.__main__._Output.failed", True)
    before = os.dup(1)
    try:
        raising(OSError(number, os.strerror(number)), monkeypatch)
        outcome = run("inspect")
    finally:
        os.dup2(before, 1)
        os.close(before)
    assert (outcome.code, outcome.err) == (1, said)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), OSError(errno.EROFS, "a bug"), OSError(errno.ENOSPC, "a bug")]
)
def test_other_errors_are_bugs(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of another file, of which standard output, which can be written, knows nothing."""
    raising(error, monkeypatch)
    with pytest.raises(type(error), match="a bug"):
        run_command(["inspect"])


def test_processes_of_torchrun_share_few_commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    outcome = run("--quiet", "inspect", "file")
    assert outcome.code == 1 and "inspect" in outcome.err and outcome.err.count("\n") == 1


def test_a_signal_is_remembered_and_becomes_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "_stopped", [])
    with pytest.raises(KeyboardInterrupt):
        main_module._stop(signal.SIGINT, None)
    with pytest.raises(SystemExit) as stop:
        main_module._stop(signal.SIGTERM, None)
    assert stop.value.code == 143 and main_module._stopped == [signal.SIGINT, signal.SIGTERM]


def test_closed_streams_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", None)
    main_module._mend_streams()
    opened = sys.stdin, sys.stderr
    assert opened[0] is not None and opened[0].read() == "" and opened[1] is not None
    for stream in opened:
        stream.close()
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit):
        main_module._mend_streams()
    assert error.getvalue() == "fmtool: error: standard output is closed\n"


def test_standard_output_has_a_buffer_and_notes_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONUNBUFFERED leaves a raw file, which writes a part of what it gets where the disk is full."""
    monkeypatch.setattr("fmtool.__main__._Output.failed", False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with open("/dev/full", "wb", buffering=0) as raw:
        before = io.TextIOWrapper(raw, write_through=True)  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdout", before)
        main_module._mend_streams()
        stream = sys.stdout
        assert isinstance(stream.buffer, io.BufferedWriter) and stream.line_buffering  # type: ignore[union-attr]
        with pytest.raises(OSError, match="No space"):
            stream.buffer.write(bytes(20_000))
        assert main_module._Output.failed
        monkeypatch.undo()
        before.detach()


def test_what_standard_error_does_not_take_is_dropped(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file, main_module._Dropping(file.fileno(), "w", closefd=False) as stream:
        assert stream.write(b"abc") == 3
    assert (tmp_path / "file").read_bytes() == b"abc"
    with (
        open("/dev/full", "wb", buffering=0) as full,
        main_module._Dropping(full.fileno(), "w", closefd=False) as stream,
    ):
        assert stream.write(b"abc") == 3
