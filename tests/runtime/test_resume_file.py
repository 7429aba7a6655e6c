"""Resume files: what is there after an error, who may write, whose work it is, and that nothing is left in the end."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest
import torch

from fmtool.artifacts.output import replacing
from fmtool.errors import ArtifactError, DataError, FmtoolWarning
from fmtool.runtime import resume_file, signals
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors, pack, unpack
from fmtool.runtime.resume_file import ResumeFile, resuming

WORK = {"history": [1, "ü"], "shapes": [[3, 4]]}


def text(words: str) -> Tensors:
    return {"text": torch.tensor(list(words.encode()), dtype=torch.uint8)}


def words(values: Tensors | None) -> str | None:
    return None if values is None else bytes(values["text"].tolist()).decode()


def row(journal: Journal, number: int) -> str | None:
    return words(unpack(journal.row(number)))


def save(journal: Journal, state: str) -> None:
    """As if it were time to."""
    assert isinstance(journal, ResumeFile)
    journal.committed = -1e9
    journal.save(lambda: text(state))


def is_new(journal: Journal) -> bool:
    assert isinstance(journal, ResumeFile)
    return not journal.begun()


def begin(target: Path, work: dict[str, object] = WORK) -> None:
    """Two rows and two states, then Ctrl-C."""
    with (
        pytest.warns(FmtoolWarning, match="progress is saved: run the same command again to resume"),
        pytest.raises(KeyboardInterrupt),
        resuming(str(target), work) as journal,
    ):
        journal.finish_row(7, text("seven"))
        journal.finish_row(3, text("three"))
        save(journal, "first")
        save(journal, "second")
        journal.save_rows({5: text("of five")})
        raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_same_work_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "x")
    assert names(tmp_path) == [".x.resume"]
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert journal.rows() == [3, 7] and row(journal, 7) == "seven"
        assert words(journal.load()) == "second"
        assert (words(journal.row_state(5)), journal.row_state(6)) == ("of five", None)
        journal.finish_row(5, text("five"))
        assert journal.row_state(5) is None
    assert names(tmp_path) == []


def test_other_work_begins_anew_and_says_so(tmp_path: Path) -> None:
    begin(tmp_path / "x")
    with (
        pytest.warns(FmtoolWarning, match="x: starting over: the saved progress belongs to other inputs or options"),
        resuming(str(tmp_path / "x"), {**WORK, "more": 1}) as journal,
    ):
        assert journal.rows() == [] and journal.load() is None and is_new(journal)
    assert names(tmp_path) == []


def test_restart_begins_anew_without_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    begin(tmp_path / "x")
    recwarn.clear()
    with resuming(str(tmp_path / "x"), WORK, restart=True) as journal:
        assert is_new(journal)
    assert not recwarn.list


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + bytes(500)])
def test_a_damaged_resume_file_never_blocks(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".x.resume").write_bytes(content)
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert is_new(journal)
        journal.finish_row(1, text(""))
    assert names(tmp_path) == []


def test_a_flipped_bit_costs_its_row_alone(tmp_path: Path) -> None:
    begin(tmp_path / "x")
    data = (tmp_path / ".x.resume").read_bytes()
    assert data.count(b"seven") == data.count(b"of five") == 1
    (tmp_path / ".x.resume").write_bytes(data.replace(b"seven", b"sevem").replace(b"of five", b"of fivd"))
    with (
        pytest.warns(FmtoolWarning, match="x: 2 saved parts are damaged and will be computed again"),
        resuming(str(tmp_path / "x"), WORK) as journal,
    ):
        assert journal.rows() == [3] and (words(journal.load()), journal.row_state(5)) == ("second", None)


def test_somebody_elses_tables_are_dropped(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / ".x.resume")
    database.execute("create table rows (a text)")
    database.commit()
    database.close()
    with (
        pytest.warns(FmtoolWarning, match="starting over: the saved progress is damaged"),
        resuming(str(tmp_path / "x"), WORK) as journal,
    ):
        journal.finish_row(1, text("one"))
        assert row(journal, 1) == "one"


def test_a_second_command_on_the_same_target_is_refused(tmp_path: Path) -> None:
    with resuming(str(tmp_path / "x"), WORK) as journal:
        journal.finish_row(1, text("one"))
        with pytest.raises(ArtifactError, match="x: another command is writing it"), resuming(str(tmp_path / "x"), {}):
            pass
        assert row(journal, 1) == "one"
        with resuming(str(tmp_path / "y"), WORK):  # another target is free
            pass
    assert names(tmp_path) == []


def test_an_error_before_anything_is_done_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="bad"), resuming(str(tmp_path / "x"), WORK):
        raise ArtifactError("bad")
    assert names(tmp_path) == []


def test_an_error_keeps_what_is_done_without_the_line_of_an_interruption(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(ArtifactError, match="bad"), resuming(str(tmp_path / "x"), WORK) as journal:
        journal.finish_row(1, text("one"))
        raise ArtifactError("bad")
    assert not recwarn.list
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert journal.rows() == [1]


def test_a_picture_that_cannot_be_read_for_a_while_costs_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError), resuming(str(tmp_path / "x"), WORK) as journal:
        journal.finish_row(1, text("one"))
        raise DataError("x.png can't be read: Stale file handle")
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert journal.rows() == [1]


def test_a_state_may_be_larger_than_a_row_of_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_file, "PIECE", 100)
    long = "".join(map(str, range(200)))
    with pytest.raises(KeyboardInterrupt), pytest.warns(FmtoolWarning), resuming(str(tmp_path / "x"), WORK) as journal:
        save(journal, long[::-1])
        save(journal, long)
        journal.finish("part", text(long))
        journal.finish("short", text("short"))
        raise KeyboardInterrupt
    data = (tmp_path / ".x.resume").read_bytes()
    with pytest.raises(KeyboardInterrupt), pytest.warns(FmtoolWarning), resuming(str(tmp_path / "x"), WORK) as journal:
        assert [words(one) for one in (journal.load(), journal.part("part"), journal.part("short"))] == [
            long, long, "short",
        ]  # fmt: skip
        raise KeyboardInterrupt
    (tmp_path / ".x.resume").write_bytes(data.replace(b"979899100", b"979899101", 1))
    with pytest.warns(FmtoolWarning, match="1 saved parts are damaged"), resuming(str(tmp_path / "x"), WORK) as journal:
        assert sorted(map(str, [words(journal.load()), words(journal.part("part"))])) == sorted(["None", long])


def test_a_commit_waits_for_whoever_looks_into_the_file(tmp_path: Path) -> None:
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert isinstance(journal, ResumeFile)
        save(journal, "first")
        reader = sqlite3.connect(tmp_path / ".x.resume", check_same_thread=False, isolation_level=None)
        reader.execute("begin")
        assert reader.execute("select name from states").fetchall() == [("",)]
        Timer(0.3, reader.execute, ["rollback"]).start()
        save(journal, "second")
        assert words(journal.load()) == "second"
        reader.close()


def test_the_first_commit_waits_too(tmp_path: Path) -> None:
    """Of a command that starts over while another one looks into what there is."""
    begin(tmp_path / "x")
    reader = sqlite3.connect(tmp_path / ".x.resume", check_same_thread=False, isolation_level=None)
    reader.execute("begin")
    assert reader.execute("select number from rows").fetchall() == [(3,), (7,)]
    Timer(0.3, reader.execute, ["rollback"]).start()
    with resuming(str(tmp_path / "x"), WORK, restart=True) as journal:
        assert is_new(journal)
    reader.close()


def test_pieces_of_two_states_never_pass_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_file, "PIECE", 100)
    write, count = ResumeFile._write, 0

    def failing(self: ResumeFile, query: str, *values: object) -> None:
        nonlocal count
        count += query.startswith("insert")
        if count == 9:  # in the second state, of seven pieces each
            raise ArtifactError("disk full")
        write(self, query, *values)

    monkeypatch.setattr(ResumeFile, "_write", failing)
    with pytest.raises(ArtifactError, match="disk full"), resuming(str(tmp_path / "x"), WORK) as journal:
        journal.finish("before", text("before"))
        save(journal, "a" * 400)
        save(journal, "b" * 400)
    monkeypatch.undo()
    monkeypatch.setattr(resume_file, "PIECE", 100)
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert (words(journal.part("before")), journal.load()) == ("before", None)


def test_links_are_followed_to_where_the_target_lies(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "there" / "y")
    begin(tmp_path / "x")
    assert names(tmp_path / "there") == [".y.resume"]
    with resuming(str(tmp_path / "there" / "y"), WORK) as journal:
        assert journal.rows() == [3, 7]


@pytest.mark.parametrize("target", [None, "-", "/dev/stdout", "/dev/null"])
def test_without_a_file_there_is_nothing_to_go_on_from(target: str | None) -> None:
    """Rows are held, where that is wanted, in a file without a name."""
    with resuming(target, WORK) as journal:
        journal.finish_row(1, text("one"))
        assert journal is NO_JOURNAL and journal.rows() == [] and journal.load() is None and not journal.due()
    with resuming(target, WORK, holds_rows=True) as journal:
        journal.finish_row(1, text("one"))
        assert journal.rows() == [1] and row(journal, 1) == "one"
        assert isinstance(journal, ResumeFile)
        journal.committed = -1e9
        assert not journal.due()


def test_each_process_has_a_resume_file_and_other_numbers_of_processes_begin_anew(tmp_path: Path) -> None:
    for rank in (0, 1, 2):
        with pytest.raises(KeyError), resuming(str(tmp_path / "x"), WORK, rank=(rank, 3)) as journal:
            journal.finish_row(rank, text(""))
            raise KeyError
    assert names(tmp_path) == [".x.resume", ".x.resume.1-of-3", ".x.resume.2-of-3"]
    with (
        pytest.warns(FmtoolWarning, match="starting over"),
        resuming(str(tmp_path / "x"), WORK, rank=(0, 2)) as journal,
    ):
        assert is_new(journal)
        assert names(tmp_path) == [".x.resume", ".x.resume.lock"]  # those of three processes are gone


def test_targets_that_killed_commands_left_half_written_are_removed(tmp_path: Path) -> None:
    """Those that are being filled stay, and other files with such names."""
    left, others = f".x.{'0' * 16}.tmp", [f".x.{'1' * 16}.tmp.bak", ".xx.1.tmp", ".x.tmp", f".y.{'2' * 16}.tmp"]
    for name in (left, *others):
        (tmp_path / name).touch()
    with replacing(str(tmp_path / "x")):
        (filled,) = set(names(tmp_path)) - {left, *others}
        with resuming(str(tmp_path / "x"), WORK):
            pass
        assert names(tmp_path) == sorted([filled, *others])


@pytest.mark.processes
def test_only_one_of_many_is_inside_at_a_time(tmp_path: Path) -> None:
    """Also when one has just removed the file that others have opened."""
    code = f"""
import os, time
import torch
from fmtool.errors import ArtifactError
from fmtool.runtime.resume_file import resuming
inside, end, times = {str(tmp_path / "inside")!r}, time.monotonic() + 4, 0
while time.monotonic() < end or not times:
    try:
        with resuming({str(tmp_path / "x")!r}, {{}}) as journal:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # FileExistsError with another one inside
            journal.finish_row(1, {{"one": torch.ones(1)}})
            journal.commit()
            os.unlink(inside)
        times += 1
    except ArtifactError as error:
        assert "another command is writing it" in str(error), error
"""
    several = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [one.communicate()[1] for one in several] == ["", "", ""]
    assert names(tmp_path) == []


def test_a_signal_waits_for_a_whole_state_and_the_next_one_does_not(tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    with (
        pytest.warns(FmtoolWarning, match="progress is saved"),
        pytest.raises(KeyboardInterrupt),
        resuming(target, WORK) as journal,
    ):
        signal.raise_signal(signal.SIGINT)
        journal.save(lambda: {"newest": torch.ones(1)})
        raise AssertionError("was not stopped")
    with pytest.warns(FmtoolWarning), pytest.raises(KeyboardInterrupt), resuming(target, WORK) as journal:
        assert journal.load() == {"newest": torch.ones(1)}
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("was not stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_waits_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "LONGEST", 0.1)
    with pytest.raises(KeyboardInterrupt), resuming(str(tmp_path / "x"), WORK):
        signal.raise_signal(signal.SIGINT)
        time.sleep(20)
    assert names(tmp_path) == []


def test_work_that_can_be_stopped_anywhere_is_stopped_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), resuming(str(tmp_path / "x"), WORK) as journal:
        journal.stop_at_once()
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("was not stopped")


def test_a_signal_after_the_last_save_is_obeyed_and_the_finished_file_stays(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(KeyboardInterrupt), resuming(str(tmp_path / "x"), WORK) as journal:
        save(journal, "last")
        signal.raise_signal(signal.SIGINT)
        (tmp_path / "x").write_text("whole")
    assert names(tmp_path) == ["x"] and not recwarn.list
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_time_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with resuming(str(tmp_path / "x"), WORK) as journal:
        assert isinstance(journal, ResumeFile) and not journal.due()
        journal.committed -= resume_file.SECONDS_BETWEEN
        assert journal.due()
        journal.commit()
        assert not journal.due()


@pytest.mark.slow
def test_what_is_committed_is_on_disk_and_what_is_not_is_not(tmp_path: Path) -> None:
    """A copy of the files, as they lie there, is what SIGKILL leaves."""
    with resuming(str(tmp_path / "x"), WORK) as journal:
        journal.finish_row(1, text("one" * 10_000))
        save(journal, "state")
        journal.finish_row(2, text("two" * 10_000_000))  # more than the cache: the database spills it into the file
        journal.finish("later", text("later"))
        for name in (".x.resume", ".x.resume-journal"):
            (tmp_path / name.replace("x", "copy")).write_bytes((tmp_path / name).read_bytes())
    with resuming(str(tmp_path / "copy"), WORK) as journal:
        assert journal.rows() == [1] and words(journal.load()) == "state"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="x: the folder 'missing' does not exist"),
        resuming(str(tmp_path / "missing" / "x"), WORK),
    ):
        pass


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    """It is no pipe either, for which all would be computed without a file to resume from."""
    with pytest.raises(ArtifactError, match="is a folder, expected a file name"), resuming(str(tmp_path), WORK):
        pass


def test_tensors_come_back_bit_by_bit() -> None:
    tensors = {
        "a": torch.rand(3, 4).t(),
        "b": torch.tensor([float("nan"), -0.0]),
        "c": torch.tensor(5),
        "d": torch.ones(2) > 0,
    }
    found = unpack(pack(tensors))
    for name, values in tensors.items():
        assert found[name].dtype == values.dtype
        assert found[name].numpy().tobytes() == values.contiguous().numpy().tobytes()
