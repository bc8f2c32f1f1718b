"""What threads wait for, told from outside."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import platform
import queue
import socket
import subprocess
import threading

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import uvloop

from pytest_resilience import proc
from pytest_resilience.chaos import waiting_clients
from pytest_resilience.virtual_time.clock import VirtualClock
from tests.forks import in_fork
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.test_outages import in_a_selector
from tests.interceptors.sockets.test_outages import in_poll
from tests.interceptors.sockets.test_outages import in_recv
from tests.interceptors.sockets.test_outages import in_recv_with_a_timeout
from tests.interceptors.sockets.test_outages import in_select
from tests.interceptors.sockets.test_outages import in_trio
from tests.interceptors.sockets.test_outages import waiting
from tests.waiting import PATIENCE
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


@contextlib.contextmanager
def a_loop_in_c(port: int) -> Iterator[set[Any]]:
    """Addresses of a connection that uvloop keeps, while a task waits for something else."""
    addresses: queue.Queue[Any] = queue.Queue()
    over: queue.Queue[Callable[[], object]] = queue.Queue()

    async def keep() -> None:
        ended = asyncio.Event()
        over.put(functools.partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set))
        _, writer = await asyncio.open_connection(HOST, port)
        addresses.put(writer.get_extra_info("sockname"))
        await ended.wait()
        writer.close()

    thread = threading.Thread(target=lambda: uvloop.run(keep()))
    thread.start()
    try:
        yield {addresses.get(timeout=PATIENCE)}
    finally:
        over.get(timeout=PATIENCE)()
        thread.join(PATIENCE)


@contextlib.contextmanager
def a_loop_in_c_that_is_left_alone(_port: int) -> Iterator[set[Any]]:
    """As by who has had enough of a test, and goes on."""
    with contextlib.closing(uvloop.new_event_loop()) as loop:
        task = loop.create_task(asyncio.Event().wait())
        loop.run_until_complete(asyncio.sleep(0))
        yield set()
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))


@pytest.mark.parametrize("loop", [a_loop_in_c, a_loop_in_c_that_is_left_alone])
@pytest.mark.parametrize("wait", [in_recv, in_poll, in_a_selector, in_trio])
def test_a_loop_in_c_says_nothing_of_who_waits_and_hides_nobody_else(
    wait: Callable[[socket.socket], bytes],
    loop: Callable[[int], AbstractContextManager[set[Any]]],
) -> None:
    with (
        serve(silent) as port,
        loop(port) as kept,
        socket.create_connection((HOST, port)) as sock,
    ):
        thread = threading.Thread(target=lambda: wait(sock))
        thread.start()
        ours = sock.getsockname()
        known = eventually(lambda: waiting_clients.awaited_among({ours} | kept) == {ours})
        sock.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        thread.join(PATIENCE)
    assert known


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


STOP_AND_CONTINUE = """
kill -STOP $PPID
until grep -q "State:.T" /proc/$PPID/status; do :; done
kill -CONT $PPID
"""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # others have left threads
@pytest.mark.parametrize(
    "wait", [in_recv, in_recv_with_a_timeout, in_select, in_poll, in_a_selector, in_trio]
)
def test_it_is_known_after_the_process_was_stopped(
    wait: Callable[[socket.socket], bytes],
) -> None:
    """As by Ctrl-Z, or by a debugger: the kernel goes on with some calls by another number."""
    ours, theirs = socket.socketpair()

    def waits() -> bool:
        return ours.fileno() in {each.descriptor for each in waiting_clients.waits([thread])}

    def story() -> int:
        thread.start()
        assert eventually(waits)
        subprocess.run(["/bin/sh", "-c", STOP_AND_CONTINUE], check=True)
        return 0 if eventually(waits) else 1

    thread = threading.Thread(target=wait, args=(ours,), daemon=True)
    with ours, theirs:
        assert in_fork(story) == 0
