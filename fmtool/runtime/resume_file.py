"""The journal that a killed command resumes from: a file beside the target, removed once the target is complete.

It is an SQLite database, because that survives SIGKILL at any moment without further code: committed changes are kept, others
are not. It holds the key of the work (a hash of inputs and options), finished rows and parts, and the state of unfinished work.
A file of other work, or a damaged one, is emptied, so that make is never blocked.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from fmtool.artifacts.format import plain
from fmtool.artifacts.output import check_target, is_stream, sweep
from fmtool.errors import (
    ArtifactError,
    DataError,
    DivergedError,
    FmtoolError,
    ModelError,
    ProcessError,
    UnclassifiedError,
    warn,
)
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors, pack, size_of, unpack
from fmtool.runtime.lock_file import can_lock, in_use, locked
from fmtool.runtime.signals import Interrupts

SECONDS_BETWEEN = 20.0  # commits: the most that SIGKILL can cost, below the minute that is promised
SUFFIX = ".resume"
# milliseconds that a commit waits for a reader of the file, such as a second command that looks into it
PATIENCE = 60_000
PIECE = 2**28  # bytes of a state in one row, below SQLite's limit of 1e9
TABLES = {  # with a checksum for each blob: SQLite detects damaged pages, but no flipped bit in a blob
    "work": "create table work (key text)",
    "rows": "create table rows (number integer primary key, data blob, checksum integer)",
    "states": "create table states (name text primary key, data blob, checksum integer, again integer)",
}


class ResumeFile(Journal):
    """A journal in a database. lasting: the file outlives this process, so that saving states is useful."""

    def __init__(self, database: sqlite3.Connection, target: str, *, lasting: bool = True) -> None:
        self.database, self.target, self.lasting = database, target, lasting
        self.lock = threading.RLock()  # after a second signal workers may still record when the database is closed
        self.interrupts = Interrupts()
        self.committed = time.monotonic()

    def load(self) -> Tensors | None:
        return self._state("")

    def save(self, state: Callable[[], Tensors]) -> None:
        if self.due():
            self._record("", state())
            self.commit()
            self.interrupts.obey()

    def part(self, name: str) -> Tensors | None:
        assert name
        return self._state(name)

    def finish_all(self, parts: Mapping[str, Tensors], *, again: bool = False) -> None:
        for name, part in parts.items():
            self._record(name, part, again=again)
        if self.due():  # after the last one: parts that belong together are committed together
            self.commit()
            self.interrupts.obey()

    def rows(self) -> list[int]:
        return [number for (number,) in self._read("select number from rows order by number")]

    def row(self, number: int) -> bytes:
        return bytes(self._read("select data from rows where number = ?", number)[0][0])

    def finish_row(self, number: int, values: Tensors) -> None:
        self._write("insert or replace into rows values (?1, ?2, crc32(?2))", number, pack(values))
        self._write("delete from states where name = ?", str(number))

    def row_state(self, number: int) -> Tensors | None:
        return self._state(str(number))

    def save_rows(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        for number, state in states.items():
            self._record(str(number), state)
        self.commit()

    def due(self) -> bool:
        """When enough time has passed, or a signal asks the work to stop."""
        late = self.interrupts.pending is not None or time.monotonic() - self.committed >= SECONDS_BETWEEN
        return self.lasting and late

    def stop_at_once(self) -> None:
        self.interrupts.puts_off = False
        self.interrupts.obey()

    def begun(self) -> bool:
        """Whether there is anything to resume from."""
        return bool(self._read("select 1 from rows union all select 1 from states limit 1"))

    def commit(self) -> None:
        """Write everything recorded since the last commit to disk, or nothing."""
        with self.lock, self._errors():
            self.database.commit()
        self.committed = time.monotonic()

    def close(self) -> None:
        """After this every call is an ArtifactError."""
        with self.lock:
            self.database.close()

    def _state(self, name: str) -> Tensors | None:
        content = self._piece(name)
        while content and len(content) < size_of(content):
            piece = self._piece(f"{name}#{len(content) // PIECE}")
            if not piece:  # it was damaged
                return None
            content += piece
        return unpack(content) if content else None

    def _piece(self, name: str) -> bytes:
        found = self._read("select data from states where name = ?", name)
        return found[0][0] if found else b""

    def _record(self, name: str, state: Mapping[str, Tensor], *, again: bool = False) -> None:
        content = pack(state)
        # the first piece goes first and comes back last, so that after an error no pieces of two states pass for one
        self._write("delete from states where name = ?", name)
        for start in reversed(range(0, len(content), PIECE)):
            piece = content[start : start + PIECE]
            called = f"{name}#{start // PIECE}" if start else name
            self._write("insert or replace into states values (?1, ?2, crc32(?2), ?3)", called, piece, again)

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self.lock, self._errors():
            return self.database.execute(query, values).fetchall()

    def _write(self, query: str, *values: Any) -> None:
        with self.lock, self._errors():
            self.database.execute(query, values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ArtifactError(f"{self.target}: the resume file can't be written: {error}") from None


def key_of(work: Mapping[str, Any]) -> str:
    """The hash of everything that must match to resume: history (inputs' digests, options, seed, versions) and shapes."""
    return hashlib.sha256(json.dumps(work, sort_keys=True, default=plain).encode()).hexdigest()


def _path(target: str, rank: tuple[int, int] = (0, 1)) -> Path:
    """The resume file; that of a further process ends in its rank, so that no other target can have it."""
    real = Path(os.path.realpath(target))
    return real.with_name(f".{real.name}{SUFFIX}{f'.{rank[0]}-of-{rank[1]}' if rank[0] else ''}")


@contextmanager
def resuming(
    target: str | None,
    work: Mapping[str, Any],
    *,
    restart: bool = False,
    rank: tuple[int, int] = (0, 1),
    holds_rows: bool = False,
) -> Iterator[Journal]:
    """The journal of this target, empty unless the same work was started before; removed when the block ends without an error.

    restart: always start over. rank: this process's rank and the number of processes that make the target together, each with its
    own file. holds_rows: keep rows even without a target, in an unnamed file that is deleted with the process. After an error,
    Ctrl-C, SIGTERM or SIGHUP the file stays, and a warning says how to resume. ArtifactError if the target can't be written,
    another command is writing it, or the file can't be created.
    """
    check_target(target)
    if target is None or is_stream(target):
        with _nameless(target or "") if holds_rows else contextlib.nullcontext(NO_JOURNAL) as journal:
            yield journal
        return
    path, whole = _path(target, rank), Path(os.path.realpath(target))
    with locked(path, target) as locks:  # until the end, so that no other command's file is removed
        if path.is_symlink():  # what it points to would be overwritten
            raise ArtifactError(f"{target}: the resume file {path.name} is a link: remove it")
        database = _opened(path, target, key_of({**work, "processes": rank[1]}), restart, locks)
        journal = ResumeFile(database, target)
        journal.interrupts.puts_off = True
        try:
            with journal.interrupts.held():
                try:
                    if rank[0] == 0:
                        sweep(whole)
                        _sweep_ranks(whole, rank[1])
                    yield journal
                    journal.close()  # Windows removes no open file
                    path.unlink(missing_ok=True)
                except BaseException as error:
                    journal.interrupts.deaf = True
                    _leave(journal, path, error)
                    raise
        finally:
            journal.close()


def _leave(journal: ResumeFile, path: Path, error: BaseException) -> None:
    """After an error: keep the file if there is anything to resume from, and say so if the user stopped the command."""
    with contextlib.suppress(ArtifactError):
        journal.commit()
        if not journal.begun() or _comes_again(error):
            journal.close()
            path.unlink(missing_ok=True)
        elif not isinstance(error, Exception):
            warn("progress is saved: run the same command again to resume")


def _comes_again(error: BaseException) -> bool:
    """Whether the same command would end in the same error, so that resuming is pointless.

    File and device faults may not recur, nor may a failed attack that they caused.
    """
    files = isinstance(
        error, ArtifactError | DataError | ModelError | ProcessError
    )  # data were read before the work began
    fault = files or isinstance(error.__cause__, RuntimeError)
    return isinstance(error, DivergedError | UnclassifiedError) or (isinstance(error, FmtoolError) and not fault)


@contextmanager
def _nameless(target: str) -> Iterator[Journal]:
    database = _connected("")
    try:
        _create(database, "")
        yield ResumeFile(database, target, lasting=False)
    finally:
        database.close()


def _sweep_ranks(target: Path, processes: int) -> None:
    """Remove resume files left by a different number of processes, and say so; those in use stay."""
    name, counts = re.escape(target.name + SUFFIX), set()
    for path in target.parent.glob(f".{glob.escape(target.name + SUFFIX)}.*"):
        match = re.fullmatch(rf"(\.{name}\.\d+-of-(\d+))(-journal|\.lock)?", path.name)
        if match and int(match[2]) != processes and not in_use(path.with_name(match[1])):
            counts |= {int(match[2])} if match[3] != ".lock" else set()
            path.unlink(missing_ok=True)
    for count in sorted(counts):
        warn(f"{target}: what {count} processes have saved is of no use to {processes} and is removed")


def _opened(path: Path, target: str, key: str, restart: bool, locks: bool) -> sqlite3.Connection:
    """The database with this key. locks: whether files can be locked."""
    for attempt in (1, 2):
        try:
            database = _connected(str(path), locks, timeout=0)
            # no fsync: a killed process loses nothing that it handed to the operating system
            database.execute("pragma synchronous = off")
            database.execute("begin immediate")  # another writer refuses this one at once
            database.execute(f"pragma busy_timeout = {PATIENCE}")
            before = _key_in(database)
            if before is not None and (restart or before != key):
                if not restart:
                    why = (
                        "belongs to other inputs or options, or to another number of processes"
                        if before
                        else "is damaged"
                    )
                    warn(f"{target}: starting over: the saved progress {why}")
                for table in TABLES:
                    database.execute(f"drop table if exists {table}")
                before = None
            if before is None:
                _create(database, key)
            else:
                _drop_damaged(database, target)
            database.commit()
            return database
        except sqlite3.OperationalError as error:
            raise ArtifactError(f"{target}: the resume file {path.name} can't be written: {error}") from None
        except sqlite3.DatabaseError:  # not a database, or a damaged one
            if attempt == 2:
                raise
            path.unlink()
            path.with_name(path.name + "-journal").unlink(missing_ok=True)
    raise AssertionError("two attempts")


def _connected(path: str, locks: bool = True, **options: Any) -> sqlite3.Connection:
    """A database, unnamed if the path is empty. locks: SQLite can lock it, as it always can on Windows."""
    if not locks and os.name != "nt":
        path, options["uri"] = f"file:{quote(os.fsencode(path))}?nolock=1", True
    database: sqlite3.Connection = sqlite3.connect(path, check_same_thread=False, **options)
    database.create_function("crc32", 1, zlib.crc32, deterministic=True)
    return database


def _drop_damaged(database: sqlite3.Connection, target: str) -> None:
    """Delete rows and states that do not match their checksums, so that they are computed again."""
    damaged = sum(
        database.execute(f"delete from {table} where crc32(data) is not checksum").rowcount
        for table in ("rows", "states")
    )
    if damaged:
        warn(f"{target}: {damaged} saved parts are damaged and will be computed again")


def _create(database: sqlite3.Connection, key: str) -> None:
    for table in TABLES.values():
        database.execute(table)
    database.execute("insert into work values (?)", (key,))


def _key_in(database: sqlite3.Connection) -> str | None:
    """The key of the work in a database, "" if its tables are not fmtool's, None if it is new."""
    tables = dict(database.execute("select name, sql from sqlite_master where type = 'table'"))
    if not tables:
        return None
    if {name: text.lower() for name, text in tables.items()} != TABLES:
        return ""
    keys = database.execute("select key from work").fetchall()
    return str(keys[0][0]) if keys else ""


def holds_work(target: str | None) -> bool:
    """Whether the resume file of this target holds work worth keeping; False if it can't be read."""
    return bool(_glance(target, "select 1 from rows union all select 1 from states where not again limit 1"))


def saved_part(target: str | None, name: str) -> Tensors | None:
    """A part in the resume file of this target, regardless of the file's key."""
    parts = _glance(target, "select data from states where name = ? and crc32(data) = checksum", name)
    return unpack(parts[0][0]) if parts else None


def _glance(target: str | None, query: str, *values: str) -> list[Any]:
    if target is None or not os.path.isfile(path := _path(target)):
        return []
    database = _connected(str(path), can_lock(path), timeout=0)
    try:
        return database.execute(query, values).fetchall()
    except sqlite3.Error:  # damaged, or locked by another command, which `resuming` reports
        return []
    finally:
        database.close()
