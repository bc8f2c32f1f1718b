from __future__ import annotations

import logging
import selectors
import socket
import threading

from collections.abc import Iterator

import pytest

from pytest_resilience import ManualClock
from pytest_resilience import ShutdownError
from pytest_resilience import SystemClock
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.proxy.event_loop import EventLoop
from tests.proxy.conftest import until


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop("loop", SystemClock())
    yield loop
    loop.close(lambda: None)


def test_calls_are_made_in_its_thread(loop: EventLoop) -> None:
    assert loop.call(threading.current_thread).name == "loop"
    assert loop.call(lambda: loop.call(threading.current_thread)).name == "loop"
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 // 0)


def test_moments_come_in_order_and_never_early(loop: EventLoop) -> None:
    came: list[tuple[float, float]] = []
    over = threading.Event()

    def plan() -> None:
        now = loop.clock.monotonic()
        for delay in (0.02, 0.005, 0.0101, 0.0):
            due = now + delay
            loop.call_at(due, lambda due=due: came.append((due, loop.clock.monotonic())))  # type: ignore[misc]
        loop.call_at(now + 0.03, over.set)

    loop.call(plan)
    assert over.wait(10)
    assert [due for due, _ in came] == sorted(due for due, _ in came)
    assert all(moment >= due for due, moment in came)


def test_a_moment_that_is_cancelled_does_not_come(loop: EventLoop) -> None:
    came: list[str] = []
    over = threading.Event()

    def plan() -> None:
        now = loop.clock.monotonic()
        loop.call_at(now, lambda: came.append("cancelled")).cancel()
        loop.call_at(now, lambda: came.append("kept"))
        loop.call_at(now + 0.001, over.set)

    loop.call(plan)
    assert over.wait(10)
    assert came == ["kept"]


def test_moments_of_a_clock_that_is_told() -> None:
    clock = ManualClock()
    loop = EventLoop("loop", clock)
    over = threading.Event()
    loop.call(lambda: loop.call_at(3600, over.set))
    assert not over.wait(0.1)
    clock.advance(3600)
    assert over.wait(10)
    loop.close(lambda: None)


def test_what_holds_ends_when_nothing_is_left(loop: EventLoop) -> None:
    left = [1.0]
    over = threading.Event()
    loop.call(lambda: loop.call_at_or_after(float("inf"), lambda: left[0], over.set))
    assert not over.wait(0.1)
    left[0] = 0.0
    assert over.wait(10)


def test_one_that_fails_is_logged_and_not_asked_again(
    loop: EventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    asked: list[int] = []

    def fail(events: int) -> None:
        asked.append(events)
        raise ValueError("a bug")

    with ours, theirs, caplog.at_level(logging.ERROR, "pytest_resilience.proxy"):
        loop.call(lambda: loop.watch(ours, selectors.EVENT_READ, fail))
        theirs.sendall(b"x")
        until(lambda: bool(caplog.messages))
        assert loop.call(lambda: "alive") == "alive"
        assert len(asked) == 1
    assert caplog.messages == ["a connection was given up"]


def test_closed_it_has_no_descriptors() -> None:
    """Others get their numbers, to whom faults happen."""
    loop = EventLoop("loop", SystemClock())
    assert set(loop.descriptors()) <= private_descriptors()
    loop.close(lambda: None)
    assert loop.descriptors() == []


def test_closed_it_does_nothing_more() -> None:
    loop = EventLoop("loop", SystemClock())
    said: list[str] = []
    loop.close(lambda: said.append("goodbye"))
    loop.close(lambda: said.append("again"))
    assert said == ["goodbye"]
    with pytest.raises(ShutdownError, match="the proxy is closed"):
        loop.call(lambda: None)
