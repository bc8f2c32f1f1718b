"""What happens when code in C resolves a name, or connects.

It is asked in the thread of the client, which holds the interpreter's lock. So nothing waits here
but with the lock given back, and what is decided is decided before the client's own connect.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import math
import os
import socket
import struct

from typing import Any

from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import ON_CONNECTIONS
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.operation import new_connection
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import is_literal
from pytest_resilience.interceptors.waiting import hold
from pytest_resilience.native.redirects import Asked
from pytest_resilience.native.redirects import Redirects
from pytest_resilience.native.redirects import is_mapped
from pytest_resilience.native.redirects import loopback_family
from pytest_resilience.native.slots import Call
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.socket_filters import allow_incoming
from pytest_resilience.socket_filters import drop_incoming


__all__ = ["NativeConnects"]

# A client that does not block asks a loop to wait, which stands still until we return: so long,
# at most, it may take to know whether the server is there. Nearly always it is on this machine.
_PATIENCE = 0.25  # seconds
_TCP_CLOSE = 7  # the state of a socket that is not connected, in struct tcp_info

_FAMILY, _V4, _V6 = struct.Struct("=H"), struct.Struct("!2xH4s8x"), struct.Struct("!2xHI16sI")
_V6_NATIVE = struct.Struct("=I")  # the zone, in the machine's own order
_HINTS = struct.Struct("@i")  # of struct addrinfo: its flags, which come first
_ADDRINFO = struct.Struct("@iiiiIPPP")  # flags, family, type, protocol, length, address, name, next


class NativeConnects:
    """See the module. A `slots.Listener`."""

    def __init__(self, engine: Engine, names: HostNames) -> None:
        self.redirects = Redirects(engine)
        self._engine = engine
        self._names = names

    def getaddrinfo(
        self, proceed: Call, node: bytes | None, service: bytes | None, hints: int, result: int
    ) -> int:
        flags = _HINTS.unpack(ctypes.string_at(hints, _HINTS.size))[0] if hints else 0
        host, port = (node or b"").decode(errors="replace"), (service or b"").decode()
        if not host or is_literal(host) or flags & socket.AI_NUMERICHOST:
            return proceed(node, service, hints, result)
        names = self._names.of(host, port if port.isdigit() else "")
        operation = Operation(kind=RESOLVE, target=names[0], names=names, remark="in C")
        effect = self._engine.decide(operation)
        if effect is not None:
            if effect.delay:
                hold(effect, effect.delay)
            error = effect.error(names[0])
            if error is not None:
                return _code(error, socket.EAI_AGAIN)
        code = proceed(node, service, hints, result)
        if code == 0:
            for address in _addresses(result):
                self._names.learn(host, address)
        return code

    def connect(self, proceed: Call, descriptor: int, address: int, length: int) -> int:
        server = _read(address, length)
        if server is None or not _is_new_tcp(descriptor):
            return proceed(descriptor, address, length)
        host, port = server.sockaddr[:2]
        names = self._names.of(host.removeprefix("::ffff:") if is_mapped(server) else host, port)
        blocking = not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
        operation = Operation(
            kind=CONNECT,
            target=names[0],
            names=names,
            blocking=blocking,
            tcp=TcpDetails(connection=new_connection(), unseen=True),
            remark="in C",
        )
        if self._engine.is_targeted(operation):
            effect = self._engine.decide(operation)
        elif self._engine.expected.may_match(operation, ON_CONNECTIONS):
            led = operation.tcp._replace(unseen=False)  # what is done on it will be noted
            self._engine.note_unmatched(operation._replace(tcp=led))
            effect = None
        else:
            self._engine.note_unmatched(operation)
            return proceed(descriptor, address, length)
        silent = effect is not None and effect.delay == math.inf
        if effect is not None and not silent:
            if blocking and effect.delay:
                hold(effect, effect.delay)
            error = effect.error(names[0])
            if error is not None:
                code = _code(error, errno.ECONNREFUSED)
                return _failed(proceed, descriptor, server, code)
        asked = Asked(
            server=server,
            operation=operation,
            delay=None if blocking or silent else effect,
        )
        return self._redirected(proceed, descriptor, asked, effect if silent else None, blocking)

    def _redirected(
        self, proceed: Call, descriptor: int, asked: Asked, silence: Effect | None, blocking: bool
    ) -> int:
        redirect = self.redirects.begin(asked)
        if silence is not None:
            self._silence(descriptor, silence)
        else:
            try:
                redirect.connected(math.inf if blocking else _PATIENCE)
            except OSError as error:
                self.redirects.cancel(redirect)
                code = error.errno or errno.ECONNREFUSED
                return _failed(proceed, descriptor, asked.server, code)
        code = _proceed_to(redirect.address.port, proceed, descriptor, asked.server)
        found = ctypes.get_errno()
        if code and found not in {errno.EINPROGRESS, errno.EINTR}:
            self.redirects.cancel(redirect)
        ctypes.set_errno(found)
        return code

    def _silence(self, descriptor: int, effect: Effect) -> None:
        """Let nothing come from the peer, so that the client's connect gets no response."""
        with limits_lifted():
            ours = os.dup(descriptor)  # the client may close its own, and another get that number
        with borrowed(ours) as sock:
            drop_incoming(sock)

        def end() -> None:
            with borrowed(ours) as sock:
                allow_incoming(sock)
            os.close(ours)

        self.redirects.later(effect, end)


def _code(error: Exception, otherwise: int) -> int:
    code = getattr(error, "errno", None)
    return code if isinstance(code, int) else otherwise


def _failed(proceed: Call, descriptor: int, server: SocketAddress, code: int) -> int:
    """A refusal is a real one: a client that does not block learns of it later, from a poll."""
    if code == errno.ECONNREFUSED:
        with contextlib.suppress(OSError), effects.nobody_there(loopback_family(server)) as nobody:
            return _proceed_to(nobody[1], proceed, descriptor, server)
    ctypes.set_errno(code)
    return -1


def _proceed_to(port: int, proceed: Call, descriptor: int, server: SocketAddress) -> int:
    """Connect to a port on loopback what was about to connect to `server`."""
    where = _written(port, server)
    return proceed(descriptor, ctypes.addressof(where), len(where))


def _is_new_tcp(descriptor: int) -> bool:
    """Whether a connection of TCP is about to begin.

    A client that was interrupted may ask once more for the one that it has begun.
    """
    with contextlib.suppress(OSError), borrowed(descriptor) as sock:
        if sock.type == socket.SOCK_STREAM and sock.family in {socket.AF_INET, socket.AF_INET6}:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    return False


def _read(address: int, length: int) -> SocketAddress | None:
    """A socket address as C has it; None for one that is not of IP."""
    raw = ctypes.string_at(address, length) if length >= _V4.size else b""
    family = _FAMILY.unpack_from(raw)[0] if raw else 0
    if family == socket.AF_INET:
        port, host = _V4.unpack_from(raw)
        return SocketAddress(family, (socket.inet_ntoa(host), port))
    if family == socket.AF_INET6 and length >= _V6.size:
        port, flow, host, _ = _V6.unpack_from(raw)
        zone = _V6_NATIVE.unpack_from(raw, _V6.size - _V6_NATIVE.size)[0]
        return SocketAddress(family, (socket.inet_ntop(family, host), port, flow, zone))
    return None


def _written(port: int, server: SocketAddress) -> Any:
    """A port on loopback as C has it, for a socket that was about to connect to `server`."""
    if server.family == socket.AF_INET:
        raw = _V4.pack(port, socket.inet_aton("127.0.0.1"))
    else:
        host = "::ffff:127.0.0.1" if is_mapped(server) else "::1"
        raw = _V6.pack(port, 0, socket.inet_pton(socket.AF_INET6, host), 0)
    raw = _FAMILY.pack(server.family) + raw[_FAMILY.size :]
    return ctypes.create_string_buffer(raw, len(raw))


def _addresses(result: int) -> list[str]:
    """Those in a list of struct addrinfo, to which `result` points."""
    found = []
    entry = ctypes.c_uint64.from_address(result).value
    while entry:
        *_, length, address, _name, entry = _ADDRINFO.unpack(
            ctypes.string_at(entry, _ADDRINFO.size)
        )
        where = _read(address, length) if address else None
        if where is not None:
            found.append(str(where.sockaddr[0]))
    return found
