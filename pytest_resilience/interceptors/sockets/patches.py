"""One period in which the methods of sockets are replaced.

`__tracebackhide__` keeps these frames out of pytest's tracebacks: what the user sees is
what the real event would show.
"""

from __future__ import annotations

import errno
import functools
import socket
import threading

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.patching import Patches
from pytest_resilience.interceptors.patching import accepting_classes
from pytest_resilience.interceptors.patching import socket_classes
from pytest_resilience.interceptors.patching import tls_modules
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import Loops
from pytest_resilience.interceptors.sockets.connect import Dialing
from pytest_resilience.interceptors.sockets.connections import Links
from pytest_resilience.interceptors.sockets.descriptors import ends_of
from pytest_resilience.interceptors.sockets.descriptors import is_udp
from pytest_resilience.interceptors.sockets.host_names import Names
from pytest_resilience.interceptors.sockets.partition import Walls
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.receive import Receiving
from pytest_resilience.interceptors.sockets.resolve import Resolving
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.response_stream import is_sensible
from pytest_resilience.interceptors.sockets.send import Sending
from pytest_resilience.interceptors.sockets.ssl_objects import TlsObjects
from pytest_resilience.interceptors.sockets.unreachable import datagram
from pytest_resilience.interceptors.sockets.wire_format import may_bring_tickets


if TYPE_CHECKING:
    import ssl


__all__ = ["Interception"]

_Handle = Callable[[socket.socket, Call], Any]

_R = TypeVar("_R")

_NOTHING = object()
_RECEIVING = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")
_SENDING = ("send", "sendall", "sendmsg", "sendto", "sendfile")
_TLS_RECEIVING = ("recv", "recv_into", "read")
_TLS_SENDING = ("send", "sendall", "write")


class Interception:
    """From an install of the socket interceptor to its remove, maybe from the next one on again.

    Its wrappers can be called in between, where somebody has kept hold of them; retired,
    they only pass on.
    """

    def __init__(self, engine: Engine, names: Names, patches: Patches) -> None:
        self._links = Links(engine, names)
        self._engine = engine
        self._names = names
        self._patches = patches
        self._resolving = Resolving(engine, names)
        self._dialing = Dialing(engine, self._links)
        self._loops = Loops(engine, self._dialing, names, patches)
        self._tls_objects = TlsObjects(patches)
        self._walls = Walls(engine, self._links, self._loops)
        self._speaking = Sending(engine, self._walls, self._loops, self._tls_objects)
        self._readiness = Readiness(engine.clock)
        self._hearing = Receiving(engine, self._loops, self._readiness)
        self._retired = False

    def refresh(self) -> None:
        """The active experiments have changed."""
        self._walls.flush_all()
        self._readiness.look()
        self._links.refresh()

    def retire(self) -> None:
        self._retired = True
        self._walls.retire()
        self._readiness.retire()
        self._loops.retire()
        self._dialing.retire()
        self._resolving.retire()
        self._tls_objects.retire()
        self._links.forget()

    def apply(self) -> None:
        """Replace what clients call."""
        self._retired = False
        patches = self._patches
        self._resolving.watch(patches)
        for plain in socket_classes():
            self._apply_to(plain)
        for each in accepting_classes():
            patches.replace(each, "_accept", self._accepting)  # of which `accept` is made
        for tls in tls_modules():
            self._apply_to_tls(tls.SSLSocket)
        self._dialing.watch()
        self._loops.watch()
        self._tls_objects.watch()

    def _apply_to(self, plain: Any) -> None:
        """Replace the methods of a class of sockets without TLS."""
        patches = self._patches
        self._pass(plain, self._receive, _RECEIVING)
        self._pass(plain, self._send, _SENDING)
        patches.replace(plain, "connect", self._connecting)
        patches.replace(plain, "connect_ex", self._connecting_ex)
        patches.replace(plain, "detach", self._detaching)
        patches.replace(plain, "shutdown", self._shutting)
        patches.replace(plain, "_real_close", self._closing)

    def _apply_to_tls(self, tls: Any) -> None:
        """Replace the methods of a class of sockets with TLS."""
        self._pass(tls, self._receive, _TLS_RECEIVING)
        self._pass(tls, self._send, _TLS_SENDING)
        self._patches.replace(tls, "do_handshake", self._shaking_hands)

    def _pass(self, owner: Any, otherwise: _Handle, names: tuple[str, ...]) -> None:
        for name in names:
            make = functools.partial(self._passing, otherwise, name)
            self._patches.replace(owner, name, make)

    def _passing(
        self, otherwise: _Handle, name: str, original: Callable[..., Any]
    ) -> Callable[..., Any]:
        """What calls `otherwise` unless the socket may pass; all that chaos costs one that may.

        Nearly everybody gives one argument, and packing it in a tuple takes longer than this.
        """
        passing = self._links.passing

        @functools.wraps(original)
        def call(sock: socket.socket, given: Any = _NOTHING, /, *more: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            if not more and not named and id(sock) in passing and given is not _NOTHING:
                return original(sock, given)
            args = (sock,) if given is _NOTHING else (sock, given, *more)
            if id(sock) in passing:
                return original(*args, **named)
            return otherwise(sock, Call.of(name, original, *args, **named))

        return call

    def _receive(self, sock: socket.socket, proceed: Call) -> Any:
        __tracebackhide__ = True
        link = self._look(self._links.of, sock, RECEIVE)
        if link is None or link.calm or not is_sensible(proceed):
            return proceed()
        me = threading.get_ident()
        if link.heard_by == me:
            return proceed()
        link.heard_by = me
        try:
            return self._hearing.receive(sock, link, proceed)
        finally:
            link.heard_by = None

    def _send(self, sock: socket.socket, proceed: Call) -> Any:
        __tracebackhide__ = True
        link = self._look(self._links.of, sock, SEND)
        if link is None:
            self._look(self._note_datagram, sock, proceed.args[-1])
            return proceed()
        if link.calm:
            return proceed()
        me = threading.get_ident()
        if link.told_by == me:
            return proceed()
        link.told_by = me
        try:
            return self._speaking.send(sock, link, proceed)
        finally:
            link.told_by = None

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def connect(sock: socket.socket, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, sock, *args, **named)
            return self._connect(sock, args[0], proceed) if len(args) == 1 else proceed()

        return connect

    def _connecting_ex(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def connect_ex(sock: socket.socket, *args: Any, **named: Any) -> Any:
            proceed = functools.partial(original, sock, *args, **named)
            try:
                return self._connect(sock, args[0], proceed) if len(args) == 1 else proceed()
            except socket.gaierror:
                raise  # as it does by itself
            except OSError as error:
                return error.errno or errno.EAGAIN  # EAGAIN: what it returns for a timeout

        return connect_ex

    def _connect(self, sock: socket.socket, address: Any, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        decided = id(sock) in self._dialing.decided
        if not decided and self._look(self._links.is_dialing, sock):
            return proceed()  # who polls may ask again how far it is
        link = self._look(self._links.opened, sock, address)
        if link is None:
            self._look(self._note, sock, address)
            return proceed()
        effect = None
        if decided:
            known = self._dialing.decided[id(sock)]
            effects.fail(sock, None if known is None else known.failure)
        elif not link.calm:
            self._resolving.resolve(address[0], address[1])
            blocking = sock.gettimeout() != 0
            effect = self._engine.decide(link.operation(CONNECT, blocking=blocking))
        elif self._engine.recorder is not None:
            self._resolving.resolve(address[0], address[1])
        try:
            return self._attempt(sock, effect, "timed out", proceed)
        finally:
            looked(self._links.connected, link, sock)

    def _look(self, look: Callable[..., _R], *args: Any) -> _R | None:
        """What `look` finds, of whatever there is; None where it raises, or is retired."""
        if self._retired:
            return None
        try:
            return look(*args)
        except Exception:
            return None

    def _note(self, sock: socket.socket, address: Any) -> None:
        """Let those that never fire tell of a connect that nothing can happen to."""
        if is_udp(sock):
            self._note_datagram(sock, address)
        elif is_a(address, tuple, str, bytes):
            path = text_of(address)
            where = path or ":".join(map(text_of, address[:2]))
            remark = "a socket of the file system" if path else "no TCP"
            found = Operation(kind=CONNECT, target=where, names=(), remark=remark)
            self._engine.note_unmatched(found)

    def _note_datagram(self, sock: socket.socket, given: Any) -> None:
        """As `_note`, of one that is about to go to `given`, or to whom it is connected."""
        if not is_udp(sock):
            return
        ends = (None, given) if is_a(given, tuple) else ends_of(sock)
        if ends is not None:
            self._engine.note_unmatched(datagram(self._names.of(*ends[1][:2])))

    def _shaking_hands(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def do_handshake(sock: ssl.SSLSocket, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            return self._shake_hands(sock, functools.partial(original, sock, *args, **kwargs))

        return do_handshake

    def _shake_hands(self, sock: ssl.SSLSocket, proceed: Callable[[], Any]) -> Any:
        """A round trip that happens within one call. What is there to receive comes after it."""
        __tracebackhide__ = True
        link = self._look(self._links.of, sock, RECEIVE)
        if link is None or link.calm or sock.gettimeout() == 0:
            return proceed()
        effect = self._engine.decide(link.operation(HANDSHAKE))
        link.receiving = True
        done = self._attempt(sock, effect, "The handshake operation timed out", proceed)
        link.unsure = may_bring_tickets(sock)
        return done

    def _attempt(
        self, sock: socket.socket, effect: Effect | None, timed_out: str, proceed: Callable[[], Any]
    ) -> Any:
        """Do what `effect` says, then `proceed` in the time that is left."""
        __tracebackhide__ = True
        if effect is None:
            return proceed()
        timeout = sock.gettimeout()
        left = effects.hold_before(sock, effect, timed_out)
        if left == timeout:
            return proceed()
        sock.settimeout(left)
        try:
            return proceed()
        finally:
            sock.settimeout(timeout)

    def _accepting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def _accept(sock: socket.socket) -> Any:
            accepted = original(sock)
            if is_a(accepted, tuple):
                self._look(lambda: self._links.accepted(accepted[0]))
            return accepted

        return _accept

    def _detaching(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def detach(sock: socket.socket, *args: Any) -> Any:
            link = self._look(self._links.known, sock)
            if link is not None:
                self._readiness.release(link)
            return original(sock, *args)

        return detach

    def _shutting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def shutdown(sock: socket.socket, *how: Any) -> None:
            __tracebackhide__ = True
            link = self._look(self._links.known, sock) if len(how) == 1 else None
            if link is None or not self._walls.shut(sock, link, how[0], original):
                original(sock, *how)

        return shutdown

    def _closing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def _real_close(sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            link = self._look(self._links.known, sock)
            if link is not None:
                self._walls.close(sock, link)
            original(sock, *args, **kwargs)

        return _real_close
