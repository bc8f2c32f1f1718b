"""The loops of asyncio: which one runs here, when something came, and connects that it awaits.

Receiving is delayed elsewhere (see `delaying_protocol`): a transport is found by the socket that
it reads, and a socket without one (`loop.sock_recv`) is polled (see `receive_nonblocking`).
Event loops written in C, as uvloop, call no method of a Python socket and are not reached.
"""

from __future__ import annotations

import errno
import functools
import socket
import sys
import threading
import weakref

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.call_site import current_task_of_user
from pytest_resilience.chaos.descriptors import transports_of
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.clock import running_loop
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.tcp_connection import moment
from pytest_resilience.interceptors.trio import TrioSockets
from pytest_resilience.interceptors.waiting import Wait
from pytest_resilience.interceptors.waiting import pause
from pytest_resilience.locks import fork_safe
from pytest_resilience.patching import Patches


if TYPE_CHECKING:
    import asyncio

    from pytest_resilience.interceptors.sockets.delaying_protocol import DelayingProtocol

__all__ = ["AsyncioLoops", "LoopConnects", "LoopIterations"]


class LoopIterations:
    """Keeps account of the iterations of all loops."""

    def __init__(self) -> None:
        self._iterations: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Iteration] = (
            weakref.WeakKeyDictionary()
        )

    def sent(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Something is sent, at `now` in monotonic seconds."""
        current = self._iterations.setdefault(loop, _Iteration())
        if current.sent is None:
            current.sent = now
            loop.call_soon(self._turn, loop)

    def arrival(self, loop: asyncio.AbstractEventLoop, sent_at: float, now: float) -> float:
        """Monotonic seconds at which the response to what was `sent_at`, now being read, came.

        Where it is there when the loop looks for the first time after that, it may have been
        there for as long as the loop was busy: then it came at once. Otherwise the loop had
        nothing to do but wait for it, and it came just before this iteration, however long that
        takes: from the first time that this is asked in it. Unless that is at once.
        """
        current = self._iterations.setdefault(loop, _Iteration())
        if current.began is None:
            current.began = now
            loop.call_soon(setattr, current, "began", None)  # when this iteration is over
        if current.looked is not None and sent_at >= current.looked:
            return sent_at
        return moment(sent_at, current.began)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The iteration after one in which something was sent begins, before anything is read."""
        current = self._iterations.setdefault(loop, _Iteration())
        current.looked, current.sent = current.sent, None
        loop.call_soon(setattr, current, "looked", None)


@dataclass(slots=True)
class _Iteration:
    """The times of one iteration of a loop, in monotonic seconds.

    Attributes:
        began: when it began to read; None if it has not.
        sent: when something was first sent in it; None if nothing was.
        looked: the same of the iteration before, so that in this one the loop has looked for the
            first time for a response.
    """

    began: float | None = None
    sent: float | None = None
    looked: float | None = None


class AsyncioLoops:
    """The loops of asyncio, once there are any.

    Attributes:
        iterations: of all of them.
        trio: its sockets, for which it has loops of its own.
    """

    def __init__(
        self, engine: Engine, connects: LoopConnects, names: HostNames, patches: Patches
    ) -> None:
        self._engine = engine
        self._connects = connects
        self._names = names
        self._patches = patches
        self.trio = TrioSockets(connects.connect, patches)
        self.iterations = LoopIterations()
        self._delaying: type[DelayingProtocol] | None = None
        self._reached = False
        self._installed = False
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def install(self) -> None:
        """Reach asyncio and trio now, or when they make their first loop.

        Each of their loops begins with a pair of sockets to be woken by. So nobody has to
        load them who does not use them.
        """
        self._reached, self._installed = False, True
        self._patches.replace(socket, "socketpair", self._pairing)
        self._reach()
        self.trio.install()

    def remove(self) -> None:
        self.trio.remove()
        with self._lock:  # or another thread's first loop comes in between
            self._installed = False

    def transport(self, sock: socket.socket) -> Any:
        """The transport of the loop that runs here that reads a non-blocking `sock`.

        None if there is none, or it is closing.
        """
        transport: Any = transports_of(running_loop()).get(sock.fileno())
        return None if transport is None or transport.is_closing() else transport

    def delaying_protocol(self, sock: socket.socket) -> DelayingProtocol | None:
        """For what a non-blocking `sock` receives, if a transport of the loop here reads it."""
        transport = self.transport(sock)
        if transport is None or self._delaying is None:
            return None
        protocol = transport.get_protocol()
        return protocol if isinstance(protocol, self._delaying) else self._delaying(transport)

    def after(
        self,
        effect: Effect,
        then: Callable[[], None],
        seconds: float = float("inf"),
        *,
        since: float = float("inf"),
        early: float = 0.0,
    ) -> bool:
        """Call `then` in so many seconds, or when the experiments behind `effect` have ended.

        False if no loop runs here, that would. `since` and `early`: as for `Wait`.
        """
        loop = running_loop()
        if loop is not None:
            Wait(loop, effect, seconds, then, since=since, early=early)
        return loop is not None

    def later(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` in so many seconds, if a loop runs here."""
        loop = running_loop()
        if loop is not None:
            loop.call_later(seconds, then)

    def sent(self, now: float) -> None:
        """Something is sent on a non-blocking socket, at `now` in monotonic seconds."""
        loop = running_loop()
        if loop is not None:
            self.iterations.sent(loop, now)

    def arrival(self, sent_at: float, now: float) -> float:
        """When came what is read `now`, as far as the loop knows that runs here, if one does."""
        loop = running_loop()
        return now if loop is None else self.iterations.arrival(loop, sent_at, now)

    def task(self) -> Callable[[], object] | None:
        """A weak reference to the task that runs here; None if none does."""
        task = current_task_of_user() if self._reached else None
        return None if task is None else weakref.ref(task)

    def _pairing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def socketpair(*args: Any, **kwargs: Any) -> Any:
            self._reach()
            self.trio.reach()
            return original(*args, **kwargs)

        return socketpair

    def _reach(self) -> None:
        asyncio_loops = sys.modules.get("asyncio.selector_events")
        with self._lock:
            if self._reached or not self._installed or asyncio_loops is None:
                return
            self._reached = True
            if self._delaying is None:
                # Loaded now, with asyncio: later a loop would wait for it.
                from pytest_resilience.interceptors.sockets import delaying_protocol

                self._delaying = delaying_protocol.DelayingProtocol
            replace = functools.partial(self._replace_in, asyncio_loops)
            self._patches.again("asyncio", (self, asyncio_loops), replace)

    def _replace_in(self, loops: Any) -> None:
        self._patches.replace(loops.BaseSelectorEventLoop, "sock_connect", self._connecting)
        self._patches.replace(loops.base_events.BaseEventLoop, "getaddrinfo", self._resolving)

    def _resolving(
        self, original: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        @functools.wraps(original)
        async def getaddrinfo(loop: Any, host: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            place = self._engine.call_site() if RESOLVE in self._engine.active.kinds else ""
            port = args[0] if args else kwargs.get("port")
            with self._names.resolved_elsewhere(host, port, place):
                found = await original(loop, host, *args, **kwargs)  # which asks another thread
            if self._installed:
                self._names.learn_all(host, found)
            return found

        return getaddrinfo

    def _connecting(
        self, original: Callable[..., Coroutine[Any, Any, None]]
    ) -> Callable[..., Coroutine[Any, Any, None]]:
        @functools.wraps(original)
        async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
            __tracebackhide__ = True
            await self._connects.connect(
                sock,
                address,
                proceed=functools.partial(original, loop, sock, address),
                failed=f"Connect call failed {address}",
            )

        return sock_connect


class LoopConnects:
    """Connects that event loops begin and await, those of trio too.

    They are held up first, and what happens to them is decided before they begin.

    Attributes:
        decided: by the `id` of the socket, as long as they are tried.
    """

    def __init__(self, engine: Engine, connections: ConnectionTable) -> None:
        self.decided: dict[int, Effect | None] = {}
        self._engine = engine
        self._connections = connections
        self._installed = False

    def install(self) -> None:
        self._installed = True

    def remove(self) -> None:
        self._installed = False

    async def connect(
        self,
        sock: socket.socket,
        address: Any,
        *,
        proceed: Callable[[], Awaitable[None]],
        failed: str,
    ) -> None:
        """`proceed` to connect to `address`, when its delay is over.

        Past the end of a silence raises TimeoutError with the text `failed`.
        """
        __tracebackhide__ = True
        connection = or_none(self._connections.opened, sock, address) if self._installed else None
        if connection is None or connection.untargeted:
            await proceed()
            return
        effect = self._engine.decide(connection.operation(CONNECT))
        if effect is not None and effect.delay:
            await pause(effect)
            if effect.delay == float("inf") and not effect.transient:
                raise TimeoutError(errno.ETIMEDOUT, failed)
        self.decided[id(sock)] = effect
        try:
            await proceed()
        finally:
            self.decided.pop(id(sock), None)
