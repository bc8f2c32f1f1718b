"""What a mocked httpx.AsyncClient takes for the network. The other half of `mocked_wires`.

Nothing blocks: a wait suspends the task, in asyncio and in trio.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import ResolutionFailure
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.interceptors.async_waiting import Wait
from pytest_resilience.interceptors.http_mocks.fake_socket import Wire
from pytest_resilience.interceptors.http_mocks.peer import GetThrough
from pytest_resilience.interceptors.http_mocks.peer import Peer
from pytest_resilience.interceptors.http_mocks.peer import Reply
from pytest_resilience.interceptors.http_mocks.peer import os_error
from pytest_resilience.interceptors.http_mocks.peer import wants_reply
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.response_stream import Course
from pytest_resilience.interceptors.waiting import SLICE


if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncNetwork", "Network", "translated"]


class Network:
    """A network of one peer: what `httpcore.NetworkBackend` describes."""

    def __init__(self, peer: Peer, reply: Callable[[], Reply]) -> None:
        """`reply` asks the mock; what it raises is the mock's own business."""
        self._peer = peer
        self._reply = reply

    def connect_tcp(self, *, timeout: float | None = None, **_where: Any) -> Stream:
        """Resolve and connect. Raises what httpcore does of what a socket raises."""
        __tracebackhide__ = True
        import httpcore

        wire = Wire(self._peer, self._reply)
        with translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            wire.connect(timeout)
        return Stream(wire)

    def sleep(self, seconds: float) -> None:
        """Between two tries of the client's own."""
        self._peer.clock.sleep(seconds)


class Stream:
    """A connection of it: what `httpcore.NetworkStream` describes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes of the answer. Raises GetThrough if it is for the mock to give."""
        __tracebackhide__ = True
        import httpcore

        self._wire.settimeout(timeout)
        with translated(httpcore.ReadTimeout, httpcore.ReadError):
            return self._wire.recv(max_bytes)

    def write(self, *_what: Any, **_options: Any) -> None:
        """Take what nobody reads: the mock is asked with the request itself."""

    def close(self) -> None:
        """Nothing is open."""

    def start_tls(self, *_args: Any, **_options: Any) -> Stream:
        """There is nobody to shake hands with."""
        return self

    def get_extra_info(self, info: str) -> None:
        """There is nothing more to tell."""


@contextlib.contextmanager
def translated(
    timeout: type[Exception],
    failure: type[Exception],
    kinds: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """What is met within, as httpcore translates it: a TimeoutError, and other `kinds`."""
    __tracebackhide__ = True
    try:
        yield
    except TimeoutError as error:
        raise timeout(error) from error
    except kinds as error:
        raise failure(error) from error


class AsyncNetwork:
    """A network of one peer: what `httpcore.AsyncNetworkBackend` describes."""

    def __init__(self, peer: Peer, reply: Callable[[], Awaitable[Reply]]) -> None:
        """`reply` asks the mock; what it raises is the mock's own business."""
        self._peer = peer
        self._reply = reply

    async def connect_tcp(self, *, timeout: float | None = None, **_where: Any) -> AsyncWire:  # noqa: ASYNC109
        """Resolve and connect. Raises what httpcore does of what anyio raises."""
        __tracebackhide__ = True
        import anyio
        import httpcore

        with translated(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            await self._resolve()
            await self._connect()
        return AsyncWire(self._peer, self._reply)

    async def sleep(self, seconds: float) -> None:
        """Between two tries of the client's own."""
        import anyio

        await anyio.sleep(seconds)

    async def _resolve(self) -> None:
        effect = self._peer.ask(RESOLVE)
        if effect is not None:
            await _hold(effect, effect.delay)
            if isinstance(effect.failure, ResolutionFailure):
                raise effects.name_resolution_failure(effect.failure)

    async def _connect(self) -> None:
        effect = self._peer.ask(CONNECT)
        if effect is None:
            return
        try:
            await _hold(effect, effect.delay)
            if isinstance(effect.failure, Refusal):
                raise os_error(errno.ECONNREFUSED)
        except OSError as error:
            # All addresses of a host are tried, and what was met at each is worded.
            name = self._peer.name
            raise OSError(
                f"all attempts to connect to {name} failed"
                if _in_trio()
                else "All connection attempts failed"
            ) from error


class AsyncWire:
    """A connection to a mocked peer: what `httpcore.AsyncNetworkStream` describes."""

    def __init__(self, peer: Peer, reply: Callable[[], Awaitable[Reply]]) -> None:
        self._peer = peer
        self._ask_mock = reply
        self._said: io.BytesIO | None = None
        self._body = io.BytesIO()
        self._course: Course | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """The next bytes of the answer. Raises GetThrough if it is for the mock to give."""
        __tracebackhide__ = True
        import anyio
        import httpcore

        kinds = (OSError, anyio.BrokenResourceError)
        with translated(httpcore.ReadTimeout, httpcore.ReadError, kinds), anyio.fail_after(timeout):
            if self._said is None:
                self._said = io.BytesIO(await self._hear())
            said = self._said.read(max_bytes)
            return said or await self._receive(max_bytes)

    async def write(self, *_what: Any, **_options: Any) -> None:
        """Take what nobody reads: the mock is asked with the request itself."""

    async def aclose(self) -> None:
        """Nothing is open."""

    async def start_tls(self, *_args: Any, **_options: Any) -> AsyncWire:
        """There is nobody to shake hands with."""
        return self

    def get_extra_info(self, info: str) -> None:
        """There is nothing more to tell."""

    async def _hear(self) -> bytes:
        """The answer as far as it comes at once: all of one made up, the head of another."""
        effect = self._peer.ask(RECEIVE)
        if effect is None:
            raise GetThrough
        import anyio

        fault = effect.failure
        try:
            await _hold(effect, effect.delay)
            if isinstance(fault, LostResponse):
                await self._reply()
            if isinstance(fault, (Reset, LostResponse)):
                raise os_error(errno.ECONNRESET)
        except OSError as error:
            said = (f"socket connection broken: {error}",) if _in_trio() else ()
            raise anyio.BrokenResourceError(*said) from error
        if isinstance(fault, InjectedResponse):
            return fault.replacement
        if not wants_reply(effect):
            raise GetThrough
        reply = await self._reply()
        self._body = io.BytesIO(reply.body)
        self._course = reply.heard_under(effect, self._peer.clock.monotonic())
        return self._course.take(reply.head)

    async def _receive(self, size: int) -> bytes:
        """More of the body, when it is there."""
        course = self._course
        if course is None or course.ended:
            return b""
        data = self._body.read(size if course.piece is None else min(size, course.piece))
        if not data:
            return b""
        due = course.expect(len(data), idle=False)
        await _hold(course.effect, due - self._peer.clock.monotonic())
        return course.take(data)

    async def _reply(self) -> Reply:
        try:
            return await self._ask_mock()
        except Exception as error:
            raise GetThrough(error) from None


async def _hold(effect: Effect, seconds: float) -> None:
    """Suspend the task for so long; whoever waits is cancelled at its timeout."""
    if seconds <= 0:
        return
    if _in_trio():
        await _hold_in_trio(effect, seconds)
    else:
        import asyncio

        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        waiting = Wait(loop, effect, seconds, functools.partial(_end, over))
        try:
            await over
        finally:
            waiting.cancel()
    if seconds == float("inf") and not effect.transient:
        raise os_error(errno.ETIMEDOUT)


def _in_trio() -> bool:
    """Whether this is a task of trio, and not of asyncio."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():  # by being cancelled
        over.set_result(None)


async def _hold_in_trio(effect: Effect, seconds: float) -> None:
    import anyio

    clock = effect.clock
    began, began_here = clock.monotonic(), anyio.current_time()
    try:
        while True:  # nobody says when an experiment ends
            # Whichever is faster: a clock that stands still holds nobody up for ever.
            passed = max(clock.monotonic() - began, anyio.current_time() - began_here)
            rest = min(seconds - passed, effect.left())
            if rest <= 0:
                break
            await anyio.sleep(min(rest, SLICE))
    finally:
        effect.add_delay(clock.monotonic() - began)
