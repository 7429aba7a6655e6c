"""Signals that wait for a consistent state: raised in this process, whose handlers come back."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from fmtool.runtime import signals
from fmtool.runtime.signals import SIGNALS, Interrupts


class Came(Exception):  # noqa: N818
    """A signal was obeyed."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """SIGINT and SIGTERM raise, SIGHUP is ignored as under nohup."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def obey(number: int, frame: object) -> None:
        raise Came(signal.Signals(number).name)

    for number in SIGNALS:
        signal.signal(number, obey)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_until_it_is_obeyed() -> None:
    interrupts, steps = Interrupts(), []
    interrupts.puts_off = True
    with interrupts.held(), pytest.raises(Came, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
        steps.append("still here")
        interrupts.obey()
    assert steps == ["still here"] and interrupts.pending is None and not interrupts.puts_off


def test_the_second_signal_and_one_that_is_not_put_off_are_obeyed_at_once() -> None:
    for putting_off in (True, False):
        interrupts = Interrupts()
        interrupts.puts_off = putting_off
        with interrupts.held(), pytest.raises(Came, match="SIGINT"):
            if putting_off:
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_nothing_obeys_comes_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "LONGEST", 0.02)
    interrupts = Interrupts()
    interrupts.puts_off = True
    with interrupts.held(), pytest.raises(Came, match="SIGINT"):
        signal.raise_signal(signal.SIGINT)
        for _ in range(1000):
            time.sleep(0.01)


def test_ignored_signals_stay_ignored_and_none_counts_while_work_is_saved() -> None:
    interrupts = Interrupts()
    with interrupts.held():
        signal.raise_signal(signal.SIGHUP)
        interrupts.deaf = True
        signal.raise_signal(signal.SIGTERM)
        interrupts.obey()


def test_handlers_come_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with contextlib.suppress(ZeroDivisionError), Interrupts().held():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_came_too_late_for_the_work_is_obeyed_when_the_block_has_ended() -> None:
    interrupts, done = Interrupts(), []
    interrupts.puts_off = True
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Came, match="SIGTERM"), interrupts.held():
        signal.raise_signal(signal.SIGTERM)
        done.append("all")
    assert done == ["all"] and interrupts.pending is None
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_error_comes_before_a_signal_that_is_held_back() -> None:
    interrupts = Interrupts()
    interrupts.puts_off = True
    with pytest.raises(ZeroDivisionError), interrupts.held():
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert interrupts.pending is None and interrupts.timer is not None and interrupts.timer.finished.is_set()


def test_other_threads_leave_signals_alone() -> None:
    """They could neither set handlers nor act on a signal."""
    seen: list[bool] = []

    def work() -> None:
        interrupts = Interrupts()
        with interrupts.held():
            interrupts.pending = signal.SIGINT
            interrupts.obey()
            seen.append(interrupts.before == {})

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
