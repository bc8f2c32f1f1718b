from __future__ import annotations

import dataclasses
import logging
import pickle
import sys
import threading

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pytest_resilience.events import Event
from pytest_resilience.events import Listener
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Event):
    failures: int


EVENT = Opened(at=1.5, source="db", failures=3)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can, so that a race is lost soon."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_an_event_is_a_frozen_record_that_travels() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENT.failures = 4  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(EVENT)) == EVENT
    assert dataclasses.asdict(EVENT) == {"at": 1.5, "source": "db", "failures": 3}


def test_everybody_is_told_in_the_order_they_subscribed() -> None:
    listeners = Listeners()
    told: list[tuple[str, Event]] = []

    def listener(name: str) -> Listener:
        return lambda event: told.append((name, event))

    for name in "abc":
        listeners.add(listener(name))
    listeners.emit(EVENT)
    assert told == [("a", EVENT), ("b", EVENT), ("c", EVENT)]


def test_nobody_listening_is_false() -> None:
    listeners = Listeners()
    assert not listeners
    assert len(listeners) == 0
    remove = listeners.add(print)
    assert listeners
    assert len(listeners) == 1
    remove()
    assert not listeners


def test_removing_twice_is_harmless() -> None:
    listeners = Listeners()
    told: list[Event] = []
    remove = listeners.add(told.append)
    remove()
    remove()
    listeners.emit(EVENT)
    assert told == []


def test_removing_ends_one_subscription_only() -> None:
    listeners = Listeners()
    told: list[Event] = []
    listen = told.append
    remove = listeners.add(listen)
    listeners.add(listen)
    remove()
    listeners.emit(EVENT)
    assert told == [EVENT]


def test_an_error_of_a_listener_is_logged_and_goes_no_further(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("no disk left")

    listeners = Listeners()
    told: list[Event] = []
    listeners.add(broken)
    listeners.add(told.append)
    with caplog.at_level(logging.ERROR, "pytest_resilience"):
        listeners.emit(EVENT)
    assert told == [EVENT]
    [record] = caplog.records
    assert record.name == "pytest_resilience"
    assert record.getMessage() == f"listener {broken!r} failed on {EVENT!r}"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no disk left"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_listener_is_not_swallowed(interrupt: type[BaseException]) -> None:
    def interrupted(event: Event) -> None:
        raise interrupt

    listeners = Listeners()
    listeners.add(interrupted)
    with pytest.raises(interrupt):
        listeners.emit(EVENT)


def test_a_listener_may_subscribe_and_leave_while_it_is_told() -> None:
    listeners = Listeners()
    told: list[str] = []

    def once(event: Event) -> None:
        told.append("once")
        leave()
        listeners.add(lambda event: told.append("later"))

    leave = listeners.add(once)
    listeners.emit(EVENT)
    assert told == ["once"]
    listeners.emit(EVENT)
    assert told == ["once", "later"]


def test_no_subscription_is_lost_among_threads(hasty_threads: None) -> None:
    listeners = Listeners()
    begin = threading.Barrier(4)

    def come_and_go() -> None:
        begin.wait()
        for _ in range(1_000):
            remove = listeners.add(lambda event: None)
            listeners.emit(EVENT)
            remove()
        listeners.add(print)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listeners) == 4


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError("gone"), "OSError: gone"),
        (OSError(), "OSError"),
        (UnprintableError(), "UnprintableError (its text cannot be had)"),
        (None, "None"),
        ([], "[]"),
    ],
)
def test_a_failure_in_words(failure: object, words: str) -> None:
    assert describe(failure) == words


def test_a_failure_in_words_is_short_and_never_fails() -> None:
    assert len(describe(b"x" * 10_000_000)) <= 200
    error = OSError("<" + "x" * 10_000_000 + ">")
    assert len(describe(error)) <= 220
    assert describe(error).startswith("OSError: <xxx")
    assert describe(error).endswith("xxx>")
    assert len(describe(["x" * 1_000] * 1_000)) <= 2_000
    assert "Unprintable" in describe(Unprintable())
