"""An outage strikes those who wait already when it begins: threads, and the tasks of loops.

What is done from then on is met by the methods of sockets. Who waits meanwhile called one before,
maybe before anything was intercepted, and may wait for ever. The kernel knows which thread waits
on which descriptor, and what its loops poll; a task that waits has left a callback where it waits.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import struct
import sys
import threading
import weakref

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.call_site import is_awaited
from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import put_abandoned
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.connections import TcpConnection
from pytest_resilience.interceptors.sockets.receive import Receiver
from pytest_resilience.interceptors.sockets.socket_classes import borrowed
from pytest_resilience.interceptors.sockets.socket_classes import deafen
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import hear
from pytest_resilience.interceptors.waiting import SLICE
from pytest_resilience.interceptors.waiting import wait


__all__ = ["Outages"]

# The numbers of the system calls in which threads wait, by the kernel's name of the machine.
_CALLS = {
    "x86_64": {
        "receive": (0, 45, 47), "poll": (7, 271), "select": (23, 270), "epoll": (232, 281),
    },
    "aarch64": {"receive": (63, 207, 212), "poll": (73,), "select": (72,), "epoll": (22,)},
}  # fmt: skip
_POLLED = struct.Struct("ihh")
_READABLE = 1  # POLLIN and EPOLLIN
_ONE_SHOT = 1 << 30  # EPOLLONESHOT, as trio polls
_RECEIVED, _POLLED_ALWAYS, _POLLED_ONCE = "by a thread", "by a loop", "by a loop, once"
_MOST_POLLED = 4096  # descriptors


class Outages:
    """See the module."""

    def __init__(self, engine: Engine, connections: ConnectionTable, receiver: Receiver) -> None:
        self._engine = engine
        self._connections = connections
        self._receiver = receiver
        self._begun: weakref.WeakSet[ActiveExperiment] = weakref.WeakSet()
        self._replaced: list[int] = []  # what loops still poll
        self._deaf: list[tuple[int, object, Effect]] = []  # descriptors, with their ends

    def remove(self) -> None:
        """Nobody waits any more for what was replaced, nor keeps silent."""
        while self._replaced:
            os.close(self._replaced.pop())
        over = [each for each in self._deaf if not each[2].left()]
        self._deaf = [each for each in self._deaf if each not in over]
        for descriptor, ends, _ in over:
            with contextlib.suppress(OSError), borrowed(descriptor) as sock:
                if ends_of(sock) == ends:
                    hear(sock)

    def refresh(self) -> None:
        """The active experiments have changed."""
        self.remove()
        now = self._engine.clock.monotonic()
        outages = (each for each in self._engine.active if each.experiment.is_outage)
        begun = [each for each in outages if each not in self._begun and each.left(now)]
        self._begun.update(begun)
        for each in [each for each in begun if each.experiment.opens_after]:
            begun.remove(each)
            with limits_lifted():
                threading.Thread(
                    target=self._strike_in_time,
                    args=[each],
                    name="pytest-resilience outage",
                    daemon=True,
                ).start()
        if begun:
            self._strike_all(begun)

    def _strike_in_time(self, outage: ActiveExperiment) -> None:
        """It begins now, and happens to nothing for a while."""
        clock = self._engine.clock
        while outage.left(now := clock.monotonic()):
            rest = outage.started_at + outage.experiment.opens_after - now
            if rest <= 0:
                self._connections.divide([each for each in self._engine.active if each != outage])
                self._strike_all([outage])
                return
            if clock is not MACHINE_CLOCK:  # which somebody else moves
                rest = min(rest, SLICE)
            wait(MACHINE_CLOCK, rest, lambda: outage.left(clock.monotonic()))

    def _strike_all(self, begun: Sequence[ActiveExperiment]) -> None:
        with limits_lifted():
            struck = self._strike_tasks(begun)
            self._strike_waiting(begun, struck | self._strike_late(begun, struck))
            self._close_kept([each for each in begun if each.experiment.ends_service])

    def _close_kept(self, gone: Sequence[ActiveExperiment]) -> None:
        """A service that is gone has closed the connections that nobody uses just now, too.

        Pools look for that before they use one. What is sent on it all the same meets the outage.
        """
        for descriptor in open_descriptors() - private_descriptors() if gone else ():
            connection = or_none(self._connections.at, descriptor)
            if connection is None:
                continue
            operation = connection.operation(SEND)
            if any(each.matches_target(operation) for each in gone):
                with contextlib.suppress(OSError), borrowed(descriptor) as sock:
                    effects.end_of_stream(sock)

    def _strike_tasks(self, begun: Sequence[ActiveExperiment]) -> frozenset[int]:
        """Those that wait for a transport of asyncio, each in its loop; all its descriptors."""
        found = set()
        for loop in _loops():
            noted = getattr(loop, "_transports", None)
            if noted is None or not is_a(noted, Mapping):
                continue
            for descriptor, transport in list(noted.items()):
                if transport.is_closing():
                    continue
                found.add(descriptor)
                with contextlib.suppress(RuntimeError):  # closed just now
                    loop.call_soon_threadsafe(self._strike_task, transport, begun)
        return frozenset(found)

    def _strike_task(self, transport: Any, begun: Sequence[ActiveExperiment]) -> None:
        sock, now = getattr(transport, "_sock", None), self._engine.clock.monotonic()
        begun = [each for each in begun if each.left(now)]  # in the meantime
        if (
            not begun
            or sock is None
            or transport.is_closing()
            or not is_awaited(transport.get_protocol())
        ):
            return
        connection = or_none(self._connections.of, sock, RECEIVE)
        aimed = _aimed(begun, connection)
        if connection is not None and aimed:
            self._receiver.asyncio.strike(sock, connection, aimed)

    def _strike_late(
        self, begun: Sequence[ActiveExperiment], known: frozenset[int]
    ) -> frozenset[int]:
        """Those whose response is late, and not due: it is overtaken. All their descriptors.

        `known`: those that are struck already.
        """
        found = set()
        for connection in self._connections.all():
            sock, late = connection.owner(), _late_response(connection)
            if sock is None or late is None or sock.fileno() in known:
                continue
            aimed = _aimed(begun, connection)
            if aimed:
                found.add(sock.fileno())
                if connection.begin_response(self._engine, among=aimed) is not late:
                    late.overtake()
        return frozenset(found)

    def _strike_waiting(self, begun: Sequence[ActiveExperiment], known: frozenset[int]) -> None:
        """Threads, and tasks that wait for a descriptor; but for those `known`."""
        struck, left_alone = False, known | private_descriptors()
        for descriptor, how in _waiting():
            if descriptor in left_alone:
                continue
            connection = or_none(self._connections.at, descriptor)
            aimed = _aimed(begun, connection)
            if connection is not None and aimed:
                struck |= self._strike(descriptor, connection, aimed, how)
        if struck:
            # Interrupts the system calls of all threads, and changes nothing else: the C library
            # has each thread do it. A call that is resumed looks its descriptor up again.
            with contextlib.suppress(OSError):
                os.setresuid(-1, -1, -1)

    def _strike(
        self,
        descriptor: int,
        connection: TcpConnection,
        begun: Sequence[ActiveExperiment],
        how: str,
    ) -> bool:
        """Whether a thread has to be told of it. `how`: as `_waiting` says."""
        inbound = connection.inbound
        among = begun if connection.turn.receiving else None
        stream = connection.begin_response(self._engine, among=among)
        inbound.expected = True
        if stream is None or stream.needs_response:
            return False
        if stream.effect.delay:
            if stream.effect.delay == math.inf:
                self._deafen(descriptor, connection, stream.effect)
            return False
        failure = stream.effect.failure
        if failure is None or not (failure.resets or failure.closes):
            return False
        with contextlib.suppress(OSError), borrowed(descriptor) as sock:  # or closed meanwhile
            if how == _POLLED_ALWAYS:  # who polls it receives then, and meets it there
                effects.end_of_stream(sock)
                return False
            if how == _POLLED_ONCE:  # with the receiving method that was there before
                self._replaced.append(os.dup(descriptor))
            connection.is_over()
            put_abandoned(descriptor, accepted=failure.closes)
            connection.ends = ends_of(sock)
        for each in self._replaced:
            with contextlib.suppress(OSError), borrowed(each) as sock:
                effects.end_of_stream(sock)
        return how == _RECEIVED

    def _deafen(self, descriptor: int, connection: TcpConnection, effect: Effect) -> None:
        """Let nothing be heard of its peer, by whoever waits there."""
        with contextlib.suppress(OSError), borrowed(descriptor) as sock:
            deafen(sock)
            self._deaf.append((descriptor, connection.ends, effect))


def _late_response(connection: TcpConnection) -> ResponseStream | None:
    """The response that has come, or may have, and is not due yet; None if there is none."""
    awaited = connection.client and connection.turn.receiving
    stream = connection.inbound.stream if awaited else None
    is_late = stream is not None and not stream.begun and 0 < stream.effect.delay < math.inf
    return stream if is_late else None


def _aimed(
    begun: Sequence[ActiveExperiment], connection: TcpConnection | None
) -> list[ActiveExperiment]:
    """Those that have the connection for a target: to the others its response is nothing."""
    if connection is None:
        return []
    operation = connection.operation(RECEIVE)
    return [each for each in begun if each.matches_target(operation)]


def _loops() -> Iterable[Any]:
    """The loops of asyncio in which there is a task."""
    tasks = sys.modules.get("asyncio.tasks")
    loops: dict[int, Any] = {}
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):  # in this Python and others
        for task in or_none(list, getattr(tasks, name, ())) or ():
            loop = task.get_loop()
            if not loop.is_closed():
                loops[id(loop)] = loop
    return loops.values()


def _waiting() -> Iterator[tuple[int, str]]:
    """The descriptors that are waited for, each with how that is done."""
    calls = _CALLS.get(platform.machine(), {})
    polls = set[int]()
    if (selector := _selector_here()) is not None:
        polls.add(selector)
    for thread in threading.enumerate():
        name, given = _call_of(thread.native_id, calls)
        if name == "receive":
            yield given[0], _RECEIVED
        elif name == "poll":
            for descriptor in _polled(*given[:2]):
                yield descriptor, _RECEIVED
        elif name == "select":
            for descriptor in _selected(*given[:2]):
                yield descriptor, _RECEIVED
        elif name == "epoll":
            polls.add(given[0])
    for poll in polls:
        yield from _registered(poll)


def _selector_here() -> int | None:
    """What the loop polls that runs in this thread, and so does not wait just now."""
    asyncio, trio = sys.modules.get("asyncio.events"), sys.modules.get("trio._core._run")
    loop = None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001  # None if none does
    runner = getattr(getattr(trio, "GLOBAL_RUN_CONTEXT", None), "runner", None)
    polled = getattr(loop, "_selector", None) or getattr(
        getattr(runner, "io_manager", None), "_epoll", None
    )
    return None if polled is None else or_none(polled.fileno)


def _call_of(thread: int | None, calls: Mapping[str, tuple[int, ...]]) -> tuple[str, list[int]]:
    """What a thread waits in, and the arguments of that; "" if it does not wait."""
    words = _read(f"/proc/self/task/{thread}/syscall").split()[:4]
    for name, numbers in calls.items():
        if words and words[0].isdigit() and int(words[0]) in numbers:
            return name, [int(each, 16) for each in words[1:]]
    return "", []


def _read(path: str, *, size: int = 1 << 20, at: int = 0) -> bytes:
    """What the kernel says there; b"" if nothing. Not by what a test may have replaced."""
    import posix  # only where there is such a file

    with contextlib.suppress(OSError, OverflowError):
        # A loop that is watched for what blocks it bears what is opened like this.
        descriptor = posix.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return posix.pread(descriptor, size, at)
        finally:
            posix.close(descriptor)
    return b""


def _polled(address: int, count: int) -> Iterator[int]:
    size = min(count, _MOST_POLLED) * _POLLED.size
    found = _read("/proc/self/mem", size=size, at=address)
    for descriptor, events, _ in _POLLED.iter_unpack(found if len(found) == size else b""):
        if events & _READABLE:
            yield descriptor


def _selected(count: int, address: int) -> Iterator[int]:
    size = (count + 7) // 8
    bits = int.from_bytes(_read("/proc/self/mem", size=size, at=address), sys.byteorder)
    return (descriptor for descriptor in range(count) if bits >> descriptor & 1)


def _registered(poll: int) -> Iterator[tuple[int, str]]:
    """What an epoll object is asked to tell of when it can be read."""
    for line in _read(f"/proc/self/fdinfo/{poll}").splitlines():
        words = line.split()
        if words[:1] == [b"tfd:"] and (events := int(words[3], 16)) & _READABLE:
            yield int(words[1]), _POLLED_ONCE if events & _ONE_SHOT else _POLLED_ALWAYS
