"""An outage strikes those who wait already when it begins: threads, and the tasks of loops.

What is done from then on is met by the methods of sockets. Who waits meanwhile called one before,
maybe before anything was intercepted, and may wait for ever. The kernel knows who waits for which
descriptor (see `waiting_clients`); a task that waits has left a callback where it waits.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import selectors
import socket
import threading
import weakref

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

from pytest_resilience.chaos import waiting_clients
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.call_site import is_awaited
from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.descriptors import transports_of
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.waiting_clients import Wait
from pytest_resilience.chaos.waiting_clients import loops_at_work
from pytest_resilience.chaos.waiting_clients import waiting_for
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import running_loop
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import replace_under
from pytest_resilience.interceptors.sockets.abandoned import reset
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.readiness import silence
from pytest_resilience.interceptors.sockets.receive import Receiver
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import held
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import SLICE
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.locks import renew_in_child
from pytest_resilience.locks import values
from pytest_resilience.patching import Patches
from pytest_resilience.socket_filters import allow_incoming
from pytest_resilience.socket_filters import drop_incoming
from pytest_resilience.socket_filters import forget


__all__ = ["Outages"]

_SOON = 0.01  # seconds until a transport has read what is there


_T = TypeVar("_T")
_REST = 20  # for each second of looking for late waits so many pass without
_SHORT_LOOK = 0.0005  # seconds: who has looked no longer may do so again


@dataclass(frozen=True, eq=False)
class _Silenced:
    """A connection, by its descriptor and ends, of which a thread that waits hears nothing."""

    descriptor: int
    ends: object
    effect: Effect


class Outages:
    """See the module."""

    def __init__(
        self, engine: Engine, connections: ConnectionTable, receiver: Receiver, patches: Patches
    ) -> None:
        self._engine = engine
        self._connections = connections
        self._receiver = receiver
        self._received_before = receiver.received_before
        self._begun: weakref.WeakSet[ActiveExperiment] = weakref.WeakSet()
        self._silenced: list[_Silenced] = []
        self._late_waits = _LateWaits(self._strike_late_waits, patches)
        renew_in_child(self, "_await_in_child")

    def _await_in_child(self) -> None:
        """A forked child waits by itself for what has not begun: it has no other thread."""
        now = self._engine.clock.monotonic()
        for each in self._engine.active:
            if each in self._begun and each.opens_at > now and each.left(now):
                _in_the_background(self._strike_in_time, each)

    def remove(self) -> None:
        """Nobody keeps silent any more."""
        self._late_waits.remove()
        self._end_silences()

    def _end_silences(self) -> None:
        for each in [each for each in self._silenced if not each.effect.left()]:
            self._end_silence(each)

    def _silence(self, sock: KernelSocket, silenced: _Silenced) -> None:
        self._silenced.append(silenced)
        silence(sock)
        if silenced.effect.left() < math.inf:
            _in_the_background(self._end_silence_in_time, silenced)

    def _end_silence(self, silenced: _Silenced) -> None:
        with contextlib.suppress(ValueError, OSError):  # another thread was faster; or closed
            self._silenced.remove(silenced)
            with held(silenced.descriptor, silenced.ends) as sock:
                allow_incoming(sock)

    def _end_silence_in_time(self, silenced: _Silenced) -> None:
        """It ends by itself, while the experiments that are active stay the same."""
        wait(MACHINE_CLOCK, math.inf, silenced.effect.left)
        self._end_silence(silenced)

    def note_received(self) -> None:
        """The active experiments have changed, and nobody has asked those that begin now.

        What has come is noted before more of a response is one to them.
        """
        begun = [each for each in self._standing() if each not in self._begun]
        if begun := [each for each in begun if not each.experiment.opens_after]:
            self._note(begun)

    def _note(self, begun: Sequence[ActiveExperiment]) -> None:
        now = self._engine.clock.monotonic()
        others = [each for each in self._engine.active if each not in begun and each.left(now)]
        with limits_lifted():
            self._received_before.note(begun, others)

    def _standing(self) -> list[ActiveExperiment]:
        now = self._engine.clock.monotonic()
        outages = [each for each in self._engine.active if each.experiment.is_outage]
        return [each for each in outages if each.left(now)]

    def refresh(self) -> None:
        """The active experiments have changed, after `note_received`."""
        self._end_silences()
        outages = self._standing()
        begun = [each for each in outages if each not in self._begun]
        if not outages:
            self._received_before.forget()
        self._begun.update(begun)
        self._late_waits.refresh(wanted=bool(outages))
        for each in [each for each in begun if each.experiment.opens_after]:
            begun.remove(each)
            _in_the_background(self._strike_in_time, each)
        if begun:
            self._strike_all(begun)

    def _strike_in_time(self, outage: ActiveExperiment) -> None:
        """It begins now, and happens to nothing for a while."""
        clock = self._engine.clock
        while outage.left(now := clock.monotonic()):
            rest = outage.opens_at - now
            if rest <= 0:
                self._note([outage])
                for each in self._connections.all():
                    each.inbound.threads.ask_again(outage)
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
                with contextlib.suppress(OSError), held(descriptor, connection.ends) as sock:
                    effects.end_of_stream(sock)

    def _strike_tasks(self, begun: Sequence[ActiveExperiment]) -> frozenset[int]:
        """Those that wait for a transport of asyncio, each in its loop; all its descriptors."""
        found = set()
        for loop in loops_at_work():
            for descriptor, transport in values(transports_of(loop)):
                if transport.is_closing():
                    continue
                found.add(descriptor)
                with contextlib.suppress(RuntimeError):  # closed just now
                    loop.call_soon_threadsafe(self._strike_task, loop, transport, begun)
        return frozenset(found)

    def _strike_task(
        self,
        loop: Any,
        transport: Any,
        begun: Sequence[ActiveExperiment],
        *,
        again: bool = False,
    ) -> None:
        """`again`: it had something to read first, and may not have come back for more yet."""
        now = self._engine.clock.monotonic()
        begun = [each for each in begun if each.left(now)]  # in the meantime
        sock, connection = self._of_transport(transport) if begun else (None, None)
        if sock is None or connection is None:
            return
        # It may have come to wait just now, and asked.
        aimed = _aimed(connection.inbound.threads.unasked(begun), connection)
        if not aimed:
            return
        again = again or connection in self._received_before.left
        unread = self._has_come(sock, connection)
        struck = [] if unread else waiting_for(transport.get_protocol(), aimed)
        if struck:
            self._receiver.asyncio.strike(sock, connection, struck)
        elif again or unread:
            strike = functools.partial(self._strike_task, again=True)
            loop.call_later(_SOON, strike, loop, transport, begun)

    def _of_transport(self, transport: Any) -> tuple[Any, TcpConnection | None]:
        """What a transport of asyncio reads, if it is open, and its connection, if it is known."""
        sock = getattr(transport, "_sock", None)
        if sock is None or transport.is_closing():
            return None, None
        return sock, self._connections.of(sock, RECEIVE)

    def _strike_late_waits(self, loop: Any) -> bool:
        """Strike tasks of the loop here that have come to wait, and have asked for nothing.

        Whether there were any.
        """
        now, found = self._engine.clock.monotonic(), False
        outages = [each for each in self._engine.active if each.experiment.is_outage]
        standing = [each for each in outages if each.opens_at <= now and each.left(now)]
        for _, transport in values(transports_of(loop)) if standing else ():
            sock, connection = self._of_transport(transport)
            if sock is None or connection is None:
                continue
            if connection.turn.asked or connection.is_sending:
                continue
            aimed = _aimed(connection.inbound.threads.unasked(standing), connection)
            if not aimed or self._has_come(sock, connection):
                continue
            if is_awaited(transport.get_protocol()):
                found = True
                self._receiver.asyncio.strike(sock, connection, aimed)
        return found

    def _has_come(self, sock: Any, connection: TcpConnection) -> bool:
        """Whether something had come before the outages, and is about to be delivered."""
        unread = self._received_before.left.get(connection)
        return bool(unread) or self._receiver.asyncio.delivers(sock)

    def _strike_late(
        self, begun: Sequence[ActiveExperiment], known: frozenset[int]
    ) -> frozenset[int]:
        """Those whose response is late, and not due: it is overtaken. All their descriptors.

        Or about whose response a thread decides just now, which finds out then.
        `known`: those that are struck already.
        """
        found = set()
        for connection in self._connections.all():
            sock, threads = connection.owner(), connection.inbound.threads
            if sock is None or sock.fileno() in known:
                continue
            decides = threads.decide and not self._received_before.left.get(connection)
            aimed = _aimed(begun, connection) if decides or _late_response(connection) else []
            if not aimed:
                continue
            if decides and threads.leave(aimed):
                found.add(sock.fileno())
            elif (late := _late_response(connection)) is not None:
                found.add(sock.fileno())
                new = threads.claim(aimed)
                if new and connection.begin_response(self._engine, among=new) is not late:
                    late.overtake()
        return frozenset(found)

    def _strike_waiting(self, begun: Sequence[ActiveExperiment], known: frozenset[int]) -> None:
        """Threads, and tasks that wait for a descriptor; but for those `known`."""
        waits = list(waiting_clients.waits(settled=True))
        with contextlib.ExitStack() as stack:
            replaced = False
            for wait in waits:
                if wait.descriptor in known | private_descriptors():
                    continue
                connection = or_none(self._connections.at, wait.descriptor)
                if connection is None or self._received_before.left.get(connection):
                    continue
                aimed = _aimed(begun, connection)
                # Its number may be another's by now. A thread that waits still keeps it.
                is_kept = wait.thread is None or waiting_clients.waits_still(wait)
                if aimed and is_kept:
                    with contextlib.suppress(OSError):  # closed meanwhile
                        replaced |= self._strike(wait, connection, aimed, stack)
            if replaced:
                # Interrupts the system calls of all threads, and changes nothing else: the C
                # library has each do it. A call that is resumed looks its descriptor up again.
                with contextlib.suppress(OSError):
                    os.setresuid(-1, -1, -1)

    def _strike(
        self,
        wait: Wait,
        connection: TcpConnection,
        begun: Sequence[ActiveExperiment],
        until_told: contextlib.ExitStack,
    ) -> bool:
        """Whether a thread has to be told of it, for whom another connection is there now."""
        threads = connection.inbound.threads
        among = threads.claim(begun) if connection.turn.receiving else None
        if among == []:
            return False  # who has come back meanwhile has asked
        sock = until_told.enter_context(held(wait.descriptor, connection.ends))
        stream = connection.begin_response(self._engine, among=among, early=True)
        if stream is None or stream.needs_response:
            return False
        if stream.effect.delay:
            if stream.effect.delay == math.inf:
                self._silence(sock, _Silenced(wait.descriptor, connection.ends, stream.effect))
            return False
        failure = stream.effect.failure
        if failure is None or not (failure.resets or failure.closes):
            return False
        if wait.how == waiting_clients.IN_EPOLL:  # who polls it receives then, and meets it there
            effects.end_of_stream(sock)
            return False
        return _end(wait, sock, connection, failure)


def _end(wait: Wait, sock: KernelSocket, connection: TcpConnection, failure: Fault) -> bool:
    """Whether the thread has to be told of it, for whom another connection is there now.

    Who is slow to go on must not meet what the peer says to the end of it, which is a reset. So
    the kernel takes none of that any more, for good.
    """
    connection.is_over()
    replaced = False
    if failure.closes or wait.how == waiting_clients.IN_RECEIVE:
        drop_incoming(sock)
        replaced = not _is_limited(wait, sock) and replace_under(
            wait, sock, connection, accepted=not failure.resets
        )
    if replaced or not failure.resets:
        drop_incoming(sock, keep_acks=True)  # so that it ends in good order once it is closed
    if replaced:
        forget(sock)
    if not failure.resets:
        KernelSocket.shutdown(sock, socket.SHUT_RDWR)
    elif not replaced:
        reset(sock)
        allow_incoming(sock)  # it can be connected anew
    return replaced and failure.resets


def _is_limited(wait: Wait, sock: KernelSocket) -> bool:
    """Whether the kernel lets it go on by itself."""
    in_kernel = wait.how == waiting_clients.IN_RECEIVE
    return in_kernel and timeout_of(sock, socket.SO_RCVTIMEO, of_kernel=True) is not None


def _in_the_background(action: Callable[[_T], None], about: _T) -> None:
    with limits_lifted():
        threading.Thread(
            target=action, args=[about], name="pytest-resilience outage", daemon=True
        ).start()


def _late_response(connection: TcpConnection) -> ResponseStream | None:
    """The response that has come, or may have, and is not due yet; None if there is none."""
    awaited = connection.client and connection.turn.receiving
    stream = connection.inbound.stream if awaited else None
    if stream is None or stream.begun or not stream.left():
        return None
    return stream if 0 < stream.effect.delay < math.inf else None


def _aimed(
    begun: Sequence[ActiveExperiment], connection: TcpConnection | None
) -> list[ActiveExperiment]:
    """Those that have the connection for a target: to the others its response is nothing."""
    if connection is None:
        return []
    operation = connection.operation(RECEIVE)
    return [each for each in begun if each.matches_target(operation)]


class _LateWaits:
    """Tasks that come to wait for a connection while an outage goes on, and ask for nothing.

    Who waits when it begins meets it then, and who sends by sending (see `Outages`). But a task
    that awaits what comes unasked calls nothing of its connection. So who does is looked up when
    its loop is about to wait, for by then each of its tasks has come to where it waits.
    """

    def __init__(self, strike: Callable[[Any], bool], patches: Patches) -> None:
        """`strike` strikes those of a loop, and returns whether there were any."""
        self._wanted = self._installed = False
        self._strike = strike
        self._patches = patches
        self._rests_until = 0.0  # looking takes its time

    def refresh(self, *, wanted: bool) -> None:
        """Whether an outage goes on."""
        self._wanted = wanted
        if wanted and not self._installed:
            self._installed = True
            self._patches.again("late waits", (self, selectors), self._replace)

    def remove(self) -> None:
        """Only pass on, from now on; who has made the patches takes them out."""
        self._wanted = self._installed = False

    def _replace(self) -> None:
        for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"):
            if hasattr(selectors, name):
                self._patches.replace(getattr(selectors, name), "select", self._looking)

    def _looking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def select(selector: Any, timeout: Any = None) -> Any:
            __tracebackhide__ = True
            if self._wanted and (timeout is None or timeout) and self._strikes(selector):
                timeout = 0  # the loop has something to do
            return original(selector, timeout)

        return select

    def _strikes(self, selector: Any) -> bool:
        """Whether the loop that waits by this selector has tasks that are struck now."""
        loop: Any = running_loop()
        if loop is None or getattr(loop, "_selector", None) is not selector:
            return False
        began = MACHINE_CLOCK.monotonic()
        if began < self._rests_until:
            loop.call_later(self._rests_until - began, int)  # it may wait for ever
            return False
        struck = self._strike(loop)
        took = MACHINE_CLOCK.monotonic() - began
        self._rests_until = began + took * _REST if took > _SHORT_LOOK else 0.0
        return struck
