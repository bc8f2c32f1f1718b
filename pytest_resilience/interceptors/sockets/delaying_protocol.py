"""Holding back what a transport of asyncio has received, while its loop goes on."""

from __future__ import annotations

import asyncio
import errno
import functools
import sys

from asyncio.sslproto import SSLProtocol
from asyncio.sslproto import SSLProtocolState
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.sockets.effects import kernel_patience
from pytest_resilience.interceptors.waiting import Wait


__all__ = ["DelayingProtocol"]

_LEAVING = (SSLProtocolState.FLUSHING, SSLProtocolState.SHUTDOWN)
_ENDLESS = float("inf")
_MOST_HELD = 4 << 20  # bytes; beyond that the peer's packets wait in the kernel, as its own would


class DelayingProtocol(asyncio.Protocol):
    """Stands between a transport of the running loop and its protocol while something is held back.

    What comes in is passed on in the order in which it came, each response when it is
    due. What the protocol writes goes straight to the transport, and when there is
    nothing left to hold, this steps aside.

    Attributes:
        loop: in which it happens.
        protocol: which is told of what comes in, in the end.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.loop = asyncio.get_running_loop()
        self._transport = transport
        self.protocol: Any = transport.get_protocol()
        self._held: deque[_Held] = deque()
        self._size = 0
        self._paused = False
        self._lost = False
        self._wait: Wait | None = None
        self._error: Exception | None = None
        self._is_impatient = False  # its kernel gives up before the silence is over

    @property
    def is_writing(self) -> bool:
        """Whether there is more to send."""
        return self._transport.get_write_buffer_size() > 0

    @property
    def is_holding(self) -> bool:
        """Whether something has come that is not due yet."""
        return bool(self._held)

    @property
    def is_silent(self) -> bool:
        """Whether nothing comes any more, as far as that is known."""
        return any(held.stream.due == _ENDLESS for held in self._held)

    @property
    def is_due(self) -> bool:
        """Whether something has come that is held back no more, as its experiments have ended."""
        first = self._held[0] if self._held else None
        return first is not None and bool(first.steps) and not first.stream.left()

    @property
    def is_closing(self) -> bool:
        """Whether nobody waits for a response any more: what still comes, as of TLS, is none."""
        state = getattr(self.protocol, "_state", None)
        is_closing_tls = isinstance(self.protocol, SSLProtocol) and state in _LEAVING
        return is_closing_tls or self._transport.is_closing()

    def overtake(self, stream: ResponseStream) -> None:
        """Something else happens to the connection now: what is held back does not come before.

        It comes after a partition, and never after anything else.
        """
        if stream.effect.transient and stream.due == _ENDLESS:
            self._held.appendleft(_Held(stream))
            self._pause()
            self._await_first()
            return
        self._forget()
        self._resume()

    def hold(self, stream: ResponseStream, since: float = _ENDLESS) -> None:
        """Hold back all that comes from now on until `stream` is due.

        `since`: when its delay began, in monotonic seconds, if that was before now.
        """
        current: object = self._transport.get_protocol()
        if isinstance(current, DelayingProtocol) and current is not self:
            current.hold(stream, since)  # made, and in place, after this one was
            return
        if current is not self:
            self.protocol = current
            self._transport.set_protocol(self)
        if not (self._held and any(held.stream is stream for held in self._held)):
            self._held.append(_Held(stream))
        if stream.due == _ENDLESS:
            self._pause()  # nothing comes any more, not even bad news
        if len(self._held) == 1:
            self._await_first(since)

    def end(self) -> None:
        """This side takes no more: what is held back is lost, and the end is not."""
        steps = [name for held in self._held for name, _ in held.steps]
        self._forget()
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self.protocol)
        self._resume()
        if "eof_received" in steps:  # the transport reads no more
            self.loop.call_soon(self._end)

    def pause_reading(self, stream: ResponseStream, due: float, now: float) -> Wait:
        """Let the transport read nothing from `now` until `due`, in monotonic seconds.

        Or until what is returned is ended.
        """
        transport: Any = self._transport

        def resume() -> None:
            stream.waited(due)
            transport.resume_reading()
            if stream.is_stalled:  # and maybe nothing more has come
                transport._read_ready()  # noqa: SLF001  # as its loop does

        transport.pause_reading()
        rest = due - stream.effect.clock.monotonic()
        return Wait(self.loop, stream.effect, rest, resume, since=now)

    def read(self, stream: ResponseStream, due: float) -> None:
        """Let the transport read at `due`, in monotonic seconds, though nothing has come."""
        transport: Any = self._transport

        def read() -> None:
            stream.waited(due)
            transport._read_ready()  # noqa: SLF001  # as its loop does
            if stream.is_replaced and not transport.is_closing():  # to the end
                self.loop.call_soon(read)

        Wait(self.loop, stream.effect, due - stream.effect.clock.monotonic(), read)

    def wake(self, data: bytes) -> None:
        """Let who reads receive `data`, or come for more of what is encrypted, though nothing came.

        Empty where TLS is made above the transport: it is there that there is more.
        """
        protocol: Any = self.protocol
        if isinstance(self.protocol, SSLProtocol):
            protocol._do_read()  # noqa: SLF001  # as it does itself when it may read on
        else:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._held:
            self._size += len(data)
            if self._size > _MOST_HELD:
                self._pause()
            self._held[-1].steps.append(("data_received", functools.partial(self._give, data)))
        else:
            self._give(data)

    def buffer_updated(self, nbytes: int) -> None:
        """The transport had filled the protocol's own buffer when this came in between.

        It asks nobody for another one as long as this is here, so what is in it stays.
        """
        self._pass("buffer_updated", functools.partial(self.protocol.buffer_updated, nbytes))

    def eof_received(self) -> bool:
        if not self._held:
            return bool(self.protocol.eof_received())
        self._pass("eof_received", self._end)
        return True  # or the transport would close at once

    def connection_lost(self, exc: Exception | None) -> None:
        if not _is_of_the_peer(exc):  # closed by our side, which waits for nothing any more
            self._forget()
            self.protocol.connection_lost(self._error or exc)
        else:
            self._lost = True
            lose = functools.partial(self.protocol.connection_lost, exc)
            # As a transport tells of it: who is woken by what comes before it reads that first.
            self._pass("connection_lost", functools.partial(self.loop.call_soon, lose))
            transport: Any = self._transport  # whose own do nothing any more
            transport.close = transport.abort = self._end_here

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    def __getattr__(self, name: str) -> Any:
        """Any other attribute is that of the protocol whose place this takes."""
        return getattr(self.protocol, name)

    def _pause(self) -> None:
        if not self._paused and self._transport.is_reading():  # else somebody else has paused it
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _pass(self, name: str, step: Callable[[], object]) -> None:
        if self._held:
            self._held[-1].steps.append((name, step))
        else:
            step()

    def _give(self, data: bytes) -> None:
        if not isinstance(self.protocol, asyncio.BufferedProtocol):
            self.protocol.data_received(data)
            return
        while data:
            buffer = memoryview(self.protocol.get_buffer(len(data)))
            if not buffer:
                raise RuntimeError("get_buffer() returned an empty buffer")
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
            self.protocol.buffer_updated(len(part))

    def _end(self) -> None:
        if not self.protocol.eof_received():
            self._transport.close()

    def _await_first(self, since: float = _ENDLESS) -> None:
        if self._wait is not None:
            self._wait.cancel()
        stream = self._held[0].stream
        assert stream.due is not None  # what is held has arrived
        rest = stream.due - stream.effect.clock.monotonic()
        sock = self._transport.get_extra_info("socket")
        if stream.due == _ENDLESS and sock is not None:
            rest, _ = kernel_patience(sock, silent=True, connecting=False)
        self._is_impatient = rest < stream.effect.left()
        self._wait = Wait(self.loop, stream.effect, rest, self._release, since=since)

    def _release(self) -> None:
        current: object = self._transport.get_protocol()
        if current not in (self, None):
            self.protocol = current  # TLS has begun meanwhile
        first = self._held[0].stream
        is_given_up = self._is_impatient and first.effect.left() > 0
        if first.due == _ENDLESS and (is_given_up or not first.effect.transient):
            self._give_up(first)
            return
        if first.due == _ENDLESS and first.effect.left():  # it began later than it had seemed
            self._await_first()
            return
        if self._paused:  # before the protocol is given so much that it asks for a pause of its own
            self._resume()
        self._deliver(self._held.popleft())
        if self._held:
            if self._held[0].stream.due == _ENDLESS:
                self._pause()
            self._await_first()
            return
        self._size = 0
        if self._transport.get_protocol() is self and self._error is None:
            self._transport.set_protocol(self.protocol)  # and step aside
        if self._paused:
            self._resume()

    def _deliver(self, held: _Held) -> None:
        was_closing = self._transport.is_closing()
        for name, step in held.steps:
            if self._transport.is_closing() and not was_closing:
                return  # closed by what it has just been told: it wants no more
            try:
                step()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fail(name, error)

    def _fail(self, name: str, error: BaseException) -> None:
        """Do as a transport does whose protocol has raised."""
        self.loop.call_exception_handler(
            {
                "message": f"Fatal error: protocol.{name}() call failed.",
                "exception": error,
                "transport": self._transport,
                "protocol": self.protocol,
            }
        )
        self._error = error if isinstance(error, Exception) else None
        self._transport.abort()

    def _end_here(self) -> None:
        """Our side ends a connection that is lost, of which it has not been told yet."""
        if self._held:
            self._forget()
            self.loop.call_soon(self.protocol.connection_lost, None)

    def _give_up(self, stream: ResponseStream) -> None:
        """The silence is over, and too long for the connection."""
        self._forget()
        self._error = os_error(errno.ETIMEDOUT)
        if not stream.effect.left():
            self._error.add_note(
                "The peer's silence would have lasted until the kernel gave up, here it ended "
                "with the experiment."
            )
        if self._lost:
            self.protocol.connection_lost(self._error)
        else:
            self._transport.abort()

    def _forget(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
        self._held.clear()


def _is_of_the_peer(error: Exception | None) -> bool:
    """Whether it is what the system has told of the connection.

    TLS closes it with errors of its own: its handshake or its end takes too long, say.
    """
    ssl = sys.modules.get("ssl")  # which asyncio may have to do without
    is_of_the_system = isinstance(error, OSError) and error.errno is not None
    return is_of_the_system and (ssl is None or not isinstance(error, ssl.SSLError))


@dataclass(frozen=True, slots=True)
class _Held:
    """One response, or an EOF: the calls of the protocol that wait until it is due."""

    stream: ResponseStream
    steps: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
