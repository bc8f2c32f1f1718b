"""What a fault does to a socket: the waits, the errors, and the state it is left in.

What a socket does after an accident is the kernel's and the interpreter's business, and on TLS
it differs from one Python to the next. So it is not imitated: the user's socket is brought into
the state, and what it then raises and returns is the truth. Only where that cannot be arranged,
an error is made the way the interpreter makes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import socket
import sys
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.descriptors import unread
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.sockets.abandoned import kept_while_replaced
from pytest_resilience.interceptors.sockets.abandoned import put_abandoned
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.socket_classes import send_patience
from pytest_resilience.interceptors.sockets.socket_classes import tls_modules
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import hold


__all__ = [
    "close_by_peer", "discard", "end", "end_of_stream", "end_once", "fail", "hold_before",
    "hold_on_socket", "hold_sending", "kernel_patience", "no_room", "nobody_there", "nothing_yet",
    "reset_by_peer", "send_timed_out", "silenced", "speaks_tls", "timed_out",
]  # fmt: skip

_FIRST_RETRY = 1.0  # seconds until a connect is tried again, and looked at for the first time
_AT_ONCE = 1 << 16  # bytes
_LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class _TimedSocket(Protocol):
    """A socket, or an object that takes its place, as far as waits need it.

    One that speaks TLS has a method `pending` as well.
    """

    def gettimeout(self) -> float | None:
        """In seconds; None for no limit."""


# Waits.


def hold_before(
    sock: socket.socket, effect: Effect, timed_out: str, ended: threading.Event
) -> float | None:
    """Delay a connect or handshake as `effect` says, before it is tried.

    Returns the timeout, in seconds, that is left for the real attempt (None: no limit).
    Past the socket's own, raises TimeoutError with the text `timed_out`. `ended`: as in `Inbound`.
    """
    __tracebackhide__ = True
    left = limit = sock.gettimeout()
    if effect.delay:
        connecting = is_a(sock, KernelSocket) and ends_of(sock) is None
        silent = effect.delay == math.inf
        kernel = kernel_patience(sock, silent=silent, connecting=connecting)
        error = functools.partial(TimeoutError, timed_out)
        taken = hold_on_socket(effect, effect.delay, limit, error, ended, kernel=kernel, sock=sock)
        left = None if limit is None else max(limit - taken, 1e-6)  # 0 would mean non-blocking
    if ended.is_set():
        raise _given_up(sock)
    return left


def hold_sending(
    sock: socket.socket,
    effect: Effect,
    ended: threading.Event,
    *,
    due: float = math.inf,
    asked_at: float = math.inf,
    patience: float | None = None,
) -> None:
    """Hold a send up until `due`, the end of the experiments, or the socket's timeout.

    The timeout counts from `asked_at` on, if that was before. `ended`: as in `SendQueue`.
    `patience`: seconds until the kernel gives up on a silent peer, if some of those are over.
    """
    __tracebackhide__ = True
    now, limit = effect.clock.monotonic(), timeout_of(sock, socket.SO_SNDTIMEO)
    tls: Any = getattr(sock, "_sslobj", None)  # of which `shutdown` makes a plain socket
    if limit is not None:
        limit = max(0.0, limit - max(0.0, now - asked_at))
    patience = send_patience(sock) if patience is None else patience
    patience = patience if due == math.inf else math.inf  # else it is only slow
    error = functools.partial(send_timed_out, sock)
    hold_on_socket(effect, due - now, limit, error, ended, kernel=(patience, errno.ETIMEDOUT))
    if ended.is_set() and sock.fileno() >= 0:
        if tls is not None:
            with contextlib.suppress(ConnectionResetError):  # the peer knows of the end already
                tls.write(b".")  # which raises
        raise os_error(errno.EPIPE)
    if ended.is_set():
        raise os_error(errno.EBADF)


def hold_on_socket(
    effect: Effect,
    delay: float,
    limit: float | None,
    error: Callable[[], OSError],
    ended: threading.Event,
    *,
    kernel: tuple[float, int],
    sock: _TimedSocket | None = None,
    left: Callable[[], float] | None = None,
) -> float:
    """As `hold`, where the `kernel` may give up before: see `kernel_patience`.

    `ended`: as in `Inbound`.
    """
    __tracebackhide__ = True
    is_lost, (patience, code) = limit is None, kernel
    if patience < (math.inf if limit is None else limit):
        limit, error = patience, functools.partial(_ended_by_kernel, sock, code)
        is_lost = is_lost and code == errno.ETIMEDOUT
    taken = hold(effect, delay, limit, error, ended, left=left)
    if delay == math.inf and is_lost and not (effect.transient or ended.is_set()):
        raise silenced()
    return taken


def kernel_patience(sock: Any, *, silent: bool, connecting: bool) -> tuple[float, int]:
    """Seconds until the kernel ends a receive, infinite where it does not, and with which errno.

    Or a connect, where it is `connecting`. `silent`: nothing comes from the peer, not even that it
    has received what was sent, which is what TCP_USER_TIMEOUT and keepalive wait for.
    """
    limits = []
    usual = (socket.SO_SNDTIMEO, errno.EINPROGRESS), (socket.SO_RCVTIMEO, errno.EAGAIN)
    option, code = usual[not connecting]
    if sock.gettimeout() is None and (limit := timeout_of(sock, option)):
        limits.append((limit, code))
    if silent and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # as above
            tcp = functools.partial(sock.getsockopt, socket.IPPROTO_TCP)
            if milliseconds := tcp(socket.TCP_USER_TIMEOUT):
                soonest = _FIRST_RETRY if connecting else 0.0
                limits.append((max(soonest, milliseconds / 1e3), errno.ETIMEDOUT))
            elif not connecting and sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
                probes = tcp(socket.TCP_KEEPINTVL) * tcp(socket.TCP_KEEPCNT)
                limits.append((tcp(socket.TCP_KEEPIDLE) + probes, errno.ETIMEDOUT))
            if connecting:  # each retry waits for twice as long as the one before
                retries = 2.0 ** (tcp(socket.TCP_SYNCNT) + 1) - 1
                limits.append((_FIRST_RETRY * retries, errno.ETIMEDOUT))
    return min(limits, default=(math.inf, 0))


# Errors.


def timed_out(sock: _TimedSocket) -> OSError:
    """The error of a receive when the socket's own timeout is over, or the kernel's."""
    if sock.gettimeout() is None:
        return nothing_yet(sock)
    return TimeoutError("The read operation timed out" if speaks_tls(sock) else "timed out")


def _ended_by_kernel(sock: _TimedSocket | None, code: int) -> OSError:
    return os_error(code) if sock is None or code != errno.EAGAIN else nothing_yet(sock)


def send_timed_out(sock: _TimedSocket) -> OSError:
    """The error of a send then."""
    if sock.gettimeout() is None:
        return no_room(sock)
    return TimeoutError("The write operation timed out" if speaks_tls(sock) else "timed out")


def silenced() -> OSError:
    """The error of a receive without a timeout when the kernel gives up on a peer."""
    error = os_error(errno.ETIMEDOUT)
    error.add_note(
        "No timeout is set on this socket: the peer's silence would have lasted until the "
        "kernel gave up, here it ended with the experiment."
    )
    return error


def no_room(sock: _TimedSocket) -> OSError:
    """The error of a non-blocking send when the kernel takes no more."""
    return _would_block(sock, "SSLWantWriteError", "SSL_ERROR_WANT_WRITE", "write")


def nothing_yet(sock: _TimedSocket) -> OSError:
    """The error of a non-blocking receive when there is nothing to receive yet."""
    return _would_block(sock, "SSLWantReadError", "SSL_ERROR_WANT_READ", "read")


def _would_block(sock: _TimedSocket, error: str, code: str, operation: str) -> OSError:
    if not speaks_tls(sock):
        return os_error(errno.EAGAIN)
    ssl = tls_modules()[0]  # whoever has such a socket has loaded it
    made: OSError = getattr(ssl, error)(
        getattr(ssl, code), f"The operation did not complete ({operation})"
    )
    return made


def _given_up(sock: socket.socket) -> OSError:
    """The error of a connect or handshake when this side has ended the connection meanwhile."""
    if sock.fileno() < 0:
        return os_error(errno.EBADF)
    if not speaks_tls(sock):
        return os_error(errno.ECONNRESET)
    ssl = tls_modules()[0]  # as above
    nothing = ssl.MemoryBIO()
    nothing.write_eof()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    handshake = context.wrap_bio(nothing, ssl.MemoryBIO(), server_hostname="peer")
    try:
        handshake.do_handshake()
    except OSError as error:
        return error.with_traceback(None)
    raise AssertionError("nothing was there to shake hands with")


def speaks_tls(sock: object) -> bool:
    """Whether TLS is made within the socket itself."""
    return hasattr(sock, "pending")


# States.


def fail(sock: socket.socket, fault: Fault | None) -> None:
    """Let `fault` happen to a connect or handshake of `sock`, if it is one that fails.

    A refusal raises here. A reset or EOF is met by whatever is done to the socket next.
    """
    __tracebackhide__ = True
    if isinstance(fault, Refusal):
        _refuse(sock)
        raise os_error(errno.ECONNREFUSED)
    if fault is not None and fault.resets:
        reset_by_peer(sock)
    elif fault is not None and fault.closes:
        close_by_peer(sock)


def _refuse(sock: socket.socket) -> None:
    """Connect `sock` to a port where nobody listens, which raises what that raises.

    Returns only where this cannot be done, as with a socket bound to an outside address.
    """
    __tracebackhide__ = True
    try:
        with nobody_there(sock.family) as address:
            KernelSocket.connect(kernel_socket(sock), address)
    except ConnectionRefusedError:
        raise
    except BlockingIOError:  # it will be
        if sock.gettimeout() == 0:
            raise
    except OSError:
        return


@contextlib.contextmanager
def nobody_there(family: int) -> Iterator[Any]:
    """An address on loopback that is held, so that nobody listens there. May raise OSError."""
    with (
        limits_lifted(),
        contextlib.closing(KernelSocket(family, socket.SOCK_STREAM)) as holder,
    ):
        holder.bind((_LOOPBACK[family], 0))
        yield holder.getsockname()


def reset_by_peer(sock: socket.socket) -> None:
    """Make `sock` a connection that its peer has just reset; what is done next will tell."""
    __tracebackhide__ = True
    try:
        _replace(sock, accepted=False)
    except OSError:  # no descriptor to be had; or closed meanwhile, as will be noticed
        if sock.fileno() >= 0:
            raise os_error(errno.ECONNRESET) from None


def close_by_peer(sock: socket.socket) -> None:
    """Make `sock` a connection that its peer has just closed, in good order; or leave it dead."""
    if ends_of(sock) is None:
        return
    try:
        _replace(sock, accepted=True)
    except OSError:  # no descriptor to be had, or closed meanwhile
        end_of_stream(sock)


def discard(sock: KernelSocket) -> None:
    """Let nobody receive what has come until now."""
    with contextlib.suppress(OSError):  # closed, or no more
        # Python waits for one with a timeout before the kernel is told not to.
        while unread(sock):
            KernelSocket.recv(kernel_socket(sock), _AT_ONCE, socket.MSG_DONTWAIT)


def end(sock: socket.socket, step: ResetConnection | CloseConnection) -> None:
    """Let the peer have ended the connection to which something was sent."""
    __tracebackhide__ = True
    if sock.gettimeout() == 0:
        with contextlib.suppress(OSError):  # the peer was faster; or no descriptor to be had
            # What the peer still says must find it open, or RST overtakes what was sent.
            KernelSocket.shutdown(kernel_socket(sock), socket.SHUT_WR)
            put_abandoned(sock, accepted=isinstance(step, CloseConnection))
    elif isinstance(step, ResetConnection):
        reset_by_peer(sock)
    else:
        close_by_peer(sock)


def end_once(
    connection: TcpConnection,
    step: ResetConnection | CloseConnection,
    sock: socket.socket | None = None,
) -> None:
    """Let the peer have ended the connection, whichever of several threads finds out first.

    `sock`: who is to be told why, where it has several; to others it is just over.
    """
    sock, stream = sock or connection.owner(), connection.inbound.stream
    with connection.send_queue.lock:
        if sock is not None and stream is not None and connection.inbound.stream is stream:
            with kept_while_replaced(connection, sock):
                (reset_by_peer if isinstance(step, ResetConnection) else close_by_peer)(sock)
            connection.is_over()  # last: who is woken meanwhile comes here as well


def end_of_stream(sock: KernelSocket) -> None:
    """Let EOF be all that is still received; pollers are told at once."""
    with contextlib.suppress(OSError):  # the peer was faster
        KernelSocket.shutdown(kernel_socket(sock), socket.SHUT_RD)


def _replace(sock: socket.socket, *, accepted: bool) -> None:
    """Raises OSError if there is no descriptor left to do it with."""
    with contextlib.suppress(OSError):  # the peer was faster
        # Wakes other threads that wait on it.
        KernelSocket.shutdown(kernel_socket(sock), socket.SHUT_RDWR)
    discard(sock)  # or closing it is RST, which overtakes what was sent
    put_abandoned(sock, accepted=accepted)
