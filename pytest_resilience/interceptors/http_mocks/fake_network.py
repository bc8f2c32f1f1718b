"""What mocked clients take for the network: a socket, and the network backends of httpcore.

They are given to the client's own code, which makes of their errors and bytes what it makes
of those of a real network. Each drives an `Exchange`, which decides what happens.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import math
import socket

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.clock import in_trio
from pytest_resilience.interceptors.http_mocks.exchange import AskMock
from pytest_resilience.interceptors.http_mocks.exchange import Exchange
from pytest_resilience.interceptors.http_mocks.exchange import Hold
from pytest_resilience.interceptors.http_mocks.exchange import LeftToMock
from pytest_resilience.interceptors.http_mocks.exchange import MockResponse
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.waiting import hold
from pytest_resilience.interceptors.waiting import pause
from pytest_resilience.interceptors.waiting import run_steps
from pytest_resilience.interceptors.waiting import run_steps_async


__all__ = ["AsyncFakeSocket", "AsyncNetwork", "FakeSocket", "Network"]


class FakeSocket:
    """A socket that is connected to a mocked peer, for one request and its response."""

    def __init__(
        self,
        peer: Peer,
        ask_mock: Callable[[], MockResponse],
        timeout: float | None,
        waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Resolve and connect. Raises what a socket raises.

        `waiting` is entered for the length of each wait.
        """
        __tracebackhide__ = True
        self._exchange = Exchange(peer)
        self._ask_mock = ask_mock
        self._waiting = waiting
        self._timeout: float | None = None
        run_steps(self._exchange.call(RESOLVE), self._perform)  # which has no timeout
        self._timeout = timeout
        run_steps(self._exchange.call(CONNECT), self._perform)
        if peer.tls:
            self.pending = int  # by which a socket is known to speak TLS

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def recv(self, size: int) -> bytes:
        """The next bytes of the response. Raises LeftToMock if the mock is to give it."""
        __tracebackhide__ = True
        return run_steps(self._exchange.receive(size), self._perform)

    def recv_into(self, buffer: Any) -> int:
        __tracebackhide__ = True
        data = run_steps(self._exchange.receive(len(buffer)), self._perform)
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        sock: Any = self
        return io.BufferedReader(socket.SocketIO(sock, "r"))

    def _ignore(self, *_what: Any, **_options: Any) -> None:
        """The mock is given the request itself, and nothing is open."""

    sendall = close = _ignore
    _decref_socketios = _ignore  # `socket.SocketIO` tells that a file of it is closed

    def _perform(self, step: Hold | AskMock) -> MockResponse | None:
        __tracebackhide__ = True
        if isinstance(step, Hold):
            with self._waiting():
                error = functools.partial(effects.timed_out, self)
                hold(step.effect, step.seconds, self._timeout, error)
            if self._timeout is None and step.seconds == math.inf and not step.effect.transient:
                raise effects.silenced()
            return None
        try:
            return self._ask_mock()
        except Exception as error:  # the mock's own affair
            raise LeftToMock from error


class Network:
    """A network of one peer. See `httpcore.NetworkBackend`."""

    def __init__(self, core: Any, peer: Peer, ask_mock: Callable[[], MockResponse]) -> None:
        """`core`: httpcore, or another of the same making."""
        self._core = core
        self._peer = peer
        self._ask_mock = ask_mock

    def connect_tcp(self, *, timeout: float | None = None, **_where: Any) -> _Stream:
        """Resolve and connect. Raises what httpcore does of what a socket raises."""
        __tracebackhide__ = True
        with _translated(self._core.ConnectTimeout, self._core.ConnectError):
            return _Stream(self._core, self._peer, self._ask_mock, timeout)

    def sleep(self, seconds: float) -> None:
        """Between two tries of the client's own."""
        self._peer.clock.sleep(seconds)


class _Stream(FakeSocket):
    """A connection to a mocked peer. See `httpcore.NetworkStream`."""

    def __init__(
        self, core: Any, peer: Peer, ask_mock: Callable[[], MockResponse], timeout: float | None
    ) -> None:
        __tracebackhide__ = True
        self._core = core
        super().__init__(peer, ask_mock, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        __tracebackhide__ = True
        self.settimeout(timeout)
        with _translated(self._core.ReadTimeout, self._core.ReadError):
            return self.recv(max_bytes)

    write = FakeSocket.sendall

    def start_tls(self, *_args: Any, **_options: Any) -> _Stream:
        """There is nobody to shake hands with."""
        return self

    def get_extra_info(self, info: str) -> None:
        """There is nothing more to tell."""


@contextlib.contextmanager
def _translated(
    timeout: type[Exception],
    failure: type[Exception],
    kinds: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """Raise what httpcore makes of a TimeoutError, and of other `kinds`."""
    __tracebackhide__ = True
    try:
        yield
    except TimeoutError as error:
        raise timeout(error) from error
    except kinds as error:
        raise failure(error) from error


class AsyncNetwork:
    """A network of one peer. See `httpcore.AsyncNetworkBackend`.

    Nothing blocks: a wait suspends the task, in asyncio and in trio.
    """

    def __init__(
        self, core: Any, peer: Peer, ask_mock: Callable[[], Awaitable[MockResponse]]
    ) -> None:
        """`core`: as above."""
        self._core = core
        self._peer = peer
        self._ask_mock = ask_mock

    async def connect_tcp(self, *, timeout: float | None = None, **_where: Any) -> _AsyncStream:  # noqa: ASYNC109
        """Resolve and connect. Raises what httpcore does of what anyio raises."""
        __tracebackhide__ = True
        import anyio

        core = self._core
        stream = _AsyncStream(core, self._peer, self._ask_mock)
        with _translated(core.ConnectTimeout, core.ConnectError), anyio.fail_after(timeout):
            try:
                await stream.connect()
            except socket.gaierror:
                raise
            except OSError as error:
                # All addresses of a host are tried, and what was met at each is worded.
                raise OSError(
                    f"all attempts to connect to {self._peer.name} failed"
                    if in_trio()
                    else "All connection attempts failed"
                ) from error
        return stream

    async def sleep(self, seconds: float) -> None:
        """Between two tries of the client's own."""
        import anyio

        await anyio.sleep(seconds)


class AsyncFakeSocket:
    """As `FakeSocket`, where nobody may block, and timeouts are the caller's own affair."""

    def __init__(self, peer: Peer, ask_mock: Callable[[], Awaitable[MockResponse]]) -> None:
        self._exchange = Exchange(peer)
        self._ask_mock = ask_mock

    async def connect(self) -> None:
        """Resolve and connect. Raises what a socket raises."""
        __tracebackhide__ = True
        for kind in (RESOLVE, CONNECT):
            await run_steps_async(self._exchange.call(kind), self._perform)

    async def recv(self, size: int) -> bytes:
        """The next bytes of the response. Raises LeftToMock if the mock is to give it."""
        __tracebackhide__ = True
        return await run_steps_async(self._exchange.receive(size), self._perform)

    async def _perform(self, step: Hold | AskMock) -> MockResponse | None:
        __tracebackhide__ = True
        if isinstance(step, Hold):
            await pause(step.effect, step.seconds)  # who waits is cancelled at its timeout
            if step.seconds == float("inf") and not step.effect.transient:
                raise os_error(errno.ETIMEDOUT)
            return None
        try:
            return await self._ask_mock()
        except Exception as error:  # the mock's own affair
            raise LeftToMock from error


class _AsyncStream(AsyncFakeSocket):
    """A connection to a mocked peer. See `httpcore.AsyncNetworkStream`."""

    def __init__(
        self, core: Any, peer: Peer, ask_mock: Callable[[], Awaitable[MockResponse]]
    ) -> None:
        super().__init__(peer, ask_mock)
        self._core = core

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        __tracebackhide__ = True
        import anyio

        core, kinds = self._core, (OSError, anyio.BrokenResourceError)
        with _translated(core.ReadTimeout, core.ReadError, kinds), anyio.fail_after(timeout):
            try:
                return await self.recv(max_bytes)
            except OSError as error:
                said = (f"socket connection broken: {error}",) if in_trio() else ()
                raise anyio.BrokenResourceError(*said) from error

    async def write(self, *_what: Any, **_options: Any) -> None:
        """Ignore it: the mock is given the request itself."""

    async def aclose(self) -> None:
        """Nothing is open."""

    async def start_tls(self, *_args: Any, **_options: Any) -> _AsyncStream:
        """There is nobody to shake hands with."""
        return self

    def get_extra_info(self, info: str) -> None:
        """There is nothing more to tell."""
