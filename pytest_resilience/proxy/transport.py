"""A socket in the event loop: while it connects to the server, then read from and written to."""

from __future__ import annotations

import contextlib
import errno
import functools
import selectors
import socket
import struct

from collections import deque
from collections.abc import Callable
from typing import Protocol

from pytest_resilience.chaos.descriptors import unacknowledged
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.event_loop import EventLoop


__all__ = ["Connect", "Transport", "TransportOwner"]

_MOST_AT_ONCE = 2**20  # bytes read in a row, so that nobody else has to wait for long
_SOON = 0.01  # seconds until it is seen that what was written has arrived
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # on, for no time: closing sends RST


class Connect:
    """A connect that is under way: to one address of the server after the other."""

    def __init__(
        self,
        server: Server,
        loop: EventLoop,
        *,
        connected: Callable[[socket.SocketType], None],
        failed: Callable[[OSError], None],
    ) -> None:
        """Exactly one of `connected` and `failed` is called, later, unless it is cancelled."""
        self._addresses = list(server.addresses)
        self._loop = loop
        self._connected = connected
        self._failed = failed
        self._sock: socket.SocketType | None = None

    def start(self) -> None:
        """Try the next address."""
        address = self._addresses.pop(0)
        try:
            # Below `socket.socket`: what other tools and we patch is not for this traffic.
            with limits_lifted():
                sock = socket.SocketType(address.family, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor is left; the next client may find one
            self._failed(error)
            return
        sock.setblocking(False)
        code = sock.connect_ex(address.sockaddr)
        self._sock = sock
        if code in (0, errno.EINPROGRESS):
            self._loop.watch(sock, selectors.EVENT_WRITE, self._ready)
        else:
            self._over(code)

    def cancel(self) -> None:
        """Give it up; harmless when it is over."""
        if self._sock is not None:
            self._loop.watch(self._sock, 0, self._ready)
            with limits_lifted():
                self._sock.close()
            self._sock = None

    def _ready(self, _events: int) -> None:
        if self._sock is not None:
            self._over(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _over(self, code: int) -> None:
        sock = self._sock
        if sock is None:
            return
        if not code:
            self._loop.watch(sock, 0, self._ready)
            self._sock = None
            self._connected(sock)
            return
        self.cancel()
        if self._addresses:
            self.start()
        else:
            self._failed(os_error(code))


class TransportOwner(Protocol):
    """What is notified of what happens at a transport: the names are those of asyncio."""

    def data_received(self, transport: Transport, data: memoryview) -> None:
        """Bytes have come; the view is good for this call only."""

    def eof_received(self, transport: Transport) -> None:
        """Its peer sends no more."""

    def connection_lost(self, transport: Transport) -> None:
        """It has been reset, or cannot be written to."""

    def drained(self, transport: Transport) -> None:
        """All that waited to be written is written."""

    def finished(self, transport: Transport) -> None:
        """Everything up to EOF is written: tell its peer so, or close or reset it."""


class Transport:
    """Reads and writes one socket, without ever blocking.

    Attributes:
        sock: the socket, below what is ever patched.
        unsent: bytes that wait to be written.
        is_finished: whether all is written that ever will be.
    """

    def __init__(
        self, sock: socket.SocketType, loop: EventLoop, owner: TransportOwner, buffer: bytearray
    ) -> None:
        """`buffer` is for what is read; all transports of a loop can share one."""
        self.sock = sock
        self.unsent = 0
        self.is_finished = False
        self._loop = loop
        self._owner = owner
        self._pending: deque[memoryview] = deque()
        self._finishing = False
        self._reading = False
        self._open = True
        self._buffer = buffer
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # it may have been reset already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def resume_reading(self) -> None:
        """Read from it from now on; harmless when that is so."""
        self._set_reading(True)

    def pause_reading(self) -> None:
        """Read no more; harmless when that is so."""
        self._set_reading(False)

    def _set_reading(self, wanted: bool) -> None:
        if self._open and wanted != self._reading:
            self._reading = wanted
            self._watch()

    def write(self, data: bytes | memoryview) -> None:
        """Write this after all before it."""
        if not self._open or self._finishing:
            return
        if not self._pending:
            sent = self._send(data)
            if sent == len(data) or not self._open:
                return
            data = memoryview(data)[sent:]
        self._pending.append(memoryview(bytes(data)))
        self.unsent += len(data)
        self._watch()

    def write_eof(self) -> None:
        """There will be no more to write."""
        if self._open and not self._finishing:
            self._finishing = True
            self._write_end()

    def when_arrived(self, then: Callable[[], object]) -> None:
        """Call `then` when its peer's system has all that was written: RST would take the rest."""
        if self._open and unacknowledged(self.sock):
            soon = self._loop.clock.monotonic() + _SOON
            self._loop.call_at(soon, functools.partial(self.when_arrived, then))
        else:
            then()

    def shutdown_write(self) -> None:
        """Send FIN, and go on reading."""
        if self._open:
            with contextlib.suppress(OSError):  # the other end is gone, and will be noticed
                self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it now, in order."""
        if self._open:
            self._open = False
            self._loop.watch(self.sock, 0, self._ready)
            with limits_lifted():
                self.sock.close()
            self._pending.clear()
            self.unsent = 0

    def reset(self) -> None:
        """Close it with RST: what the other end does next fails with ECONNRESET."""
        if self._open:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.close()

    def _watch(self) -> None:
        reading = selectors.EVENT_READ if self._reading else 0
        writing = selectors.EVENT_WRITE if self._pending else 0
        self._loop.watch(self.sock, reading | writing, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and self._open:
            self._read()

    def _read(self) -> None:
        total = 0
        with memoryview(self._buffer) as buffer:
            while self._open and self._reading and total < _MOST_AT_ONCE:
                try:
                    count = self.sock.recv_into(buffer)
                except BlockingIOError:
                    return
                except OSError:
                    self.pause_reading()
                    self._owner.connection_lost(self)
                    return
                if not count:
                    self.pause_reading()
                    self._owner.eof_received(self)
                    return
                total += count
                self._owner.data_received(self, buffer[:count])
                if count < len(buffer):
                    return  # most likely that was all: asking again would cost a system call

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._owner.connection_lost(self)
            return 0

    def _flush(self) -> None:
        while self._pending:
            first = self._pending[0]
            sent = self._send(first)
            if not self._open:
                return
            self.unsent -= sent
            if sent < len(first):
                self._pending[0] = first[sent:]
                return
            self._pending.popleft()
        self._watch()
        self._owner.drained(self)
        if self._finishing:
            self._write_end()

    def _write_end(self) -> None:
        if self._pending or not self._open or self.is_finished:
            return
        self.is_finished = True
        self._owner.finished(self)
