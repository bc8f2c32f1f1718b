"""What was sent on a connection and could not get through yet."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import threading

from collections import deque
from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.request_stream import CAPACITY
from pytest_resilience.chaos.request_stream import RequestStream
from pytest_resilience.interceptors.sockets.socket_classes import has_room
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.socket_classes import send_patience
from pytest_resilience.interceptors.sockets.socket_classes import with_room
from pytest_resilience.locks import fork_safe


__all__ = ["CallingThreads", "SendQueue"]


class CallingThreads(set[int]):
    """Those in one of a kind of methods, which may be made of others.

    Attributes:
        seen: whether any was, since that was last asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False


class SendQueue:
    """The messages of one connection, in order. Any thread may send them on.

    Attributes:
        messages: each with the function that sends it, or what is left of it, and the monotonic
            seconds at which it was kept.
        requests: what happens to them.
        awaited: what keeps them here, once somebody waits for the end of that.
        lock: held by who uses the socket for it, or must not be disturbed there.
        watched: a thread has to see when they can be sent: no loop does.
        threads: those in one of the sending methods: one may be made of others.
        ended: set when this side has shut it down or closed it: nobody sends more.
    """

    def __init__(self) -> None:
        self.requests = RequestStream()
        self.awaited: Effect | None = None
        self.watched = False
        self.threads = fork_safe(self, "threads", CallingThreads)
        self.messages: deque[tuple[Callable[..., int | None], bytes, float]] = deque()
        self.ended = threading.Event()
        self._room = CAPACITY
        self.lock = fork_safe(self, "lock", threading.RLock)
        self._flushed_by: int | None = None
        self._began_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether it keeps as much as it can."""
        return not self._room

    @property
    def _now(self) -> float:
        return 0.0 if self.awaited is None else self.awaited.clock.monotonic()

    def patience(self, sock: Any) -> float:
        """Seconds until the kernel gives up on a peer of whom nothing comes through."""
        since = self.messages[0][2] if self.messages else self._now
        return max(0.0, send_patience(sock) - (self._now - since))

    def refusal(self, sock: Any) -> int:
        """The error that whoever sends more is told at once; 0 if none."""
        if self.ended.is_set():
            return errno.EPIPE
        return 0 if self.patience(sock) else errno.ETIMEDOUT

    def undisturbed(self, *, tls: bool) -> contextlib.AbstractContextManager[object]:
        """While it is read: TLS bears no two at once, and the queue may be sent."""
        return self.lock if tls else contextlib.nullcontext()

    def newer(self, engine: Engine, *, begins: bool) -> list[ActiveExperiment]:
        """The outages of what is sent that have begun since the latest message did.

        To those, more of it is a message. `begins`: a message begins now.
        """
        now = engine.clock.monotonic()
        since = now if begins else self._began_at
        found = [
            each
            for each in engine.active
            if since < each.opens_at <= now
            and any(SEND in fault.kinds and _ends_it(fault) for fault in each.experiment.faults)
        ]
        if begins or found:
            self._began_at = now
        return found

    def keep(self, sock: Any, send: Callable[..., int | None], data: bytes) -> int:
        """Keep as much of `data` as there is room for, to be sent by `send`; how many bytes.

        Nothing where the kernel has taken as much of `sock` already as it takes.
        """
        is_taken = bool(self.messages) or has_room(kernel_socket(sock))
        kept = min(self._room, len(data)) if is_taken else 0
        if kept or not data:
            self.messages.append((send, data[:kept], self._now))
            self._room -= kept
        return kept

    def flush(self, sock: socket.SocketType) -> None:
        """Send all of it. What was not sent when sending raises is kept.

        Its client was told that it is sent, and nobody may be there to do so when there is room.
        """
        __tracebackhide__ = True
        me = threading.get_ident()
        if not self.messages or self._flushed_by == me:  # what sends may be made of other ways
            return
        with self.lock, with_room(sock, CAPACITY):
            self._flushed_by = me
            try:
                while self.messages:
                    send, data, since = self.messages[0]
                    sent = send(sock, data)
                    sent = len(data) if sent is None else sent
                    self._room += sent
                    if sent >= len(data):
                        self.messages.popleft()
                    else:
                        self.messages[0] = (send, data[sent:], since)
            finally:
                self._flushed_by = None

    def flush_if_free(self, sock: socket.SocketType) -> None:
        """The same, if nothing keeps it back any more, and nobody has come yet to send it."""
        __tracebackhide__ = True
        if self.messages and not self.requests.is_cut:
            self.flush(sock)


def _ends_it(fault: Fault) -> bool:
    """Whether it strikes what has begun; a partition does so by itself."""
    return (fault.resets or fault.closes or fault.delay == math.inf) and not fault.transient
