"""What a partition does to those who send: it lets nothing through, and later all of it.

As a kernel whose packets are lost does, it takes no more than a buffer full, and what was
closed meanwhile is still delivered. Only where TLS is made within a socket, that cannot be.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.patching import KernelSocket
from pytest_resilience.interceptors.patching import another
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import Loops
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.connections import Links
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.send_queue import Backlog
from pytest_resilience.interceptors.sockets.send_queue import message_of
from pytest_resilience.locks import fork_safe


__all__ = ["Walls"]

_SOON = 0.01  # seconds until a full socket is tried again, or a wall looked at
_PATIENCE = 1.0  # seconds for what was closed, at the end


class Walls:
    """Keeps what cannot get through until it can."""

    def __init__(self, engine: Engine, links: Links, loops: Loops) -> None:
        self._engine = engine
        self._links = links
        self._loops = loops
        self._closed: list[tuple[KernelSocket, Backlog, Effect]] = []
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()  # of its own for each watcher

    def is_before(self, sock: socket.socket, link: Link) -> bool:
        """Whether nothing gets through; once that is so, it stays so for a while."""
        if link.cut is not None and link.cut.left():
            return True
        asked = SEND in self._engine.active_kinds
        link.cut = self._engine.decide(link.operation(SEND)) if asked else None
        if link.cut is None:
            return False
        if self._loops.reads(sock):  # nobody blocks here who would notice when it is over
            self._loops.after(link.cut, lambda: self._flush_soon(sock, link))
        else:
            link.backlog.watched = True
        return True

    def keep(self, sock: socket.socket, link: Link, call: Call) -> Any:
        """Keep what `call` would send; returns what its method returns, when it does."""
        __tracebackhide__ = True
        cut = link.cut
        assert cut is not None  # it is what is in the way
        send, data = message_of(call)
        kept = link.backlog.keep(send, data)
        if not cut.left():  # since it was looked at
            link.backlog.flush(sock)
        elif link.backlog.watched:
            self._watch()
        whole = call.name in ("sendall", "sendfile")
        if kept < len(data) and (whole or not kept):
            if sock.gettimeout() == 0:
                self._loops.hold_writing(sock, cut)
                raise effects.no_room(sock)
            effects.hold_sending(sock, cut)
            link.backlog.flush(sock)
            while kept < len(data):
                sent = send(sock, data[kept:])
                kept = len(data) if sent is None else kept + sent
        return None if call.name == "sendall" else kept

    def shut(self, sock: socket.socket, link: Link, how: int, shut: Callable[..., Any]) -> bool:
        """Keep the end of what is sent, if it has to come after more; whether that is so."""
        if how == socket.SHUT_RD or not self._holds(sock, link):
            return False
        link.backlog.keep(lambda sock, _: shut(sock, how), b"")
        return True

    def close(self, sock: socket.socket, link: Link) -> None:
        """The socket is being closed: what has not got through still does."""
        if not self._holds(sock, link) or link.cut is None:
            return
        with contextlib.suppress(OSError):  # no descriptor to be had
            with limits_lifted():
                left = another(sock, os.dup(sock.fileno()))
            left.settimeout(_PATIENCE)
            with self._lock:
                self._closed.append((left, link.backlog, link.cut))
            link.backlog = Backlog()
            self._watch()

    @staticmethod
    def _holds(sock: socket.socket, link: Link) -> bool:
        in_tls = effects.speaks_tls(sock)
        return bool(link.backlog) and link.cut is not None and not in_tls

    def flush_all(self) -> None:
        """Send on, everywhere, what nothing keeps back any more."""
        for link in self._links.all():
            sock = link.owner()
            if sock is not None and link.backlog and not (link.cut and link.cut.left()):
                self._flush(sock, link)
        if not in_a_loop():  # or they may block: the watcher does it
            self._flush_closed()

    def retire(self) -> None:
        """Keep nothing any more."""
        watcher, self._watcher = self._watcher, None
        self._over.set()
        self.flush_all()
        if watcher is not None and watcher is not threading.current_thread() and not in_a_loop():
            watcher.join(_PATIENCE)

    def _flush_closed(self) -> None:
        with self._lock:
            ready = [each for each in self._closed if not each[2].left()]
            self._closed = [each for each in self._closed if each not in ready]
        for sock, backlog, _ in ready:
            with contextlib.suppress(OSError):
                backlog.flush(sock)
            with limits_lifted():
                sock.close()

    def _flush_soon(self, sock: socket.socket, link: Link) -> None:
        self._flush(sock, link)
        if link.backlog and sock.fileno() >= 0:
            self._loops.later(_SOON, lambda: self._flush_soon(sock, link))

    def _flush(self, sock: Any, link: Link) -> None:
        with contextlib.suppress(OSError):  # full; or gone, and whoever uses it next is told
            link.backlog.flush(sock)
        link.sent_at = self._engine.clock.monotonic()

    def _watch(self) -> None:
        """Have a thread see when it is over, where nobody else would."""
        with self._lock:
            if self._watcher is None or not self._watcher.is_alive():  # it was, before a fork
                self._over = threading.Event()
                self._watcher = threading.Thread(
                    target=self._wait_for_the_end,
                    args=[self._over],
                    name="pytest-resilience partition",
                    daemon=True,
                )
                with limits_lifted():
                    self._watcher.start()

    def _wait_for_the_end(self, over: threading.Event) -> None:
        while not over.wait(_SOON):
            held = [link for link in self._links.all() if self._is_for_the_watcher(link)]
            for link in held:
                sock = link.owner()
                if sock is not None and link.cut is not None and not link.cut.left():
                    self._flush(sock, link)
            self._flush_closed()
            with self._lock:
                if not (held or self._closed):
                    if self._over is over:
                        self._watcher = None
                    return
        self._flush_closed()

    def _is_for_the_watcher(self, link: Link) -> bool:
        """Not for a loop, nor where TLS may be in use for long by the thread that has sent."""
        sock = link.owner()
        if sock is None or not link.backlog.watched:
            return False
        return self._holds(sock, link) or (bool(link.backlog) and sock.gettimeout() == 0)
