"""What threads wait for, told from outside."""

from __future__ import annotations

import itertools
import os
import platform
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterator

import pytest

from pytest_resilience import proc
from pytest_resilience.chaos import waiting_clients
from pytest_resilience.virtual_time.clock import VirtualClock
from tests.forks import in_fork
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.test_outages import in_a_selector
from tests.interceptors.sockets.test_outages import in_poll
from tests.interceptors.sockets.test_outages import in_recv
from tests.interceptors.sockets.test_outages import in_recv_with_a_timeout
from tests.interceptors.sockets.test_outages import in_select
from tests.interceptors.sockets.test_outages import in_trio
from tests.interceptors.sockets.test_outages import waiting
from tests.waiting import eventually


RECEIVES = 45 if platform.machine() == "x86_64" else 207  # as the kernel numbers `recvfrom`
DESCRIPTOR = 7


@pytest.mark.parametrize(
    ("wait", "how"),
    [
        (in_recv, waiting_clients.IN_RECEIVE),
        (in_recv_with_a_timeout, waiting_clients.IN_POLL),  # as Python does it
        (in_select, waiting_clients.IN_POLL),
        (in_poll, waiting_clients.IN_POLL),
        (in_a_selector, waiting_clients.IN_EPOLL),
        (in_trio, waiting_clients.IN_EPOLL_ONCE),
    ],
)
def test_it_is_known_what_is_waited_for(wait: Callable[[socket.socket], bytes], how: str) -> None:
    before = set(waiting_clients.waits())
    with serve(silent) as port, waiting(wait, port):
        assert how in {each.how for each in set(waiting_clients.waits()) - before}


def show_another(
    monkeypatch: pytest.MonkeyPatch, calls: Iterator[tuple[int, list[int]] | None]
) -> None:
    """Whoever looks at a thread sees one that is not this, in one of the calls after the other."""
    number = threading.get_native_id() + 1
    monkeypatch.setattr(proc, "number_of_thread", lambda _: number)
    monkeypatch.setattr(proc, "state_of", lambda _: "R")
    monkeypatch.setattr(proc, "system_call_of", lambda _: next(calls))


def waits_of_one(*, settled: bool) -> list[tuple[int, str]]:
    found = waiting_clients.waits([threading.current_thread()], settled=settled)
    return [(each.descriptor, each.how) for each in found]


def test_who_runs_is_on_its_way_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    receives = (RECEIVES, [DESCRIPTOR, 0, 0])
    show_another(monkeypatch, iter([None, None, None, receives]))
    assert waits_of_one(settled=False) == []
    assert waits_of_one(settled=True) == [(DESCRIPTOR, waiting_clients.IN_RECEIVE)]


def test_who_works_is_not_awaited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    show_another(monkeypatch, itertools.repeat(None))
    assert waits_of_one(settled=True) == []


def test_it_takes_no_virtual_time(
    monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock
) -> None:
    show_another(monkeypatch, itertools.repeat(None))
    assert waits_of_one(settled=True) == []
    assert virtual_clock.elapsed == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # others have left threads
def test_it_is_known_what_the_main_thread_of_a_forked_child_waits_for() -> None:
    """As that of a worker, which some Pythons take for its parent's."""
    ours, theirs = socket.socketpair()

    def waits() -> bool:
        return (ours.fileno(), waiting_clients.IN_RECEIVE) in (
            (each.descriptor, each.how) for each in waiting_clients.waits()
        )

    def story() -> int:
        threading.Thread(target=lambda: os._exit(0 if eventually(waits) else 1)).start()
        ours.recv(1)
        return 2

    with ours, theirs:
        assert in_fork(story) == 0
