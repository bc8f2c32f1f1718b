"""What a fault does to a socket: the waits, the errors, and the state it is left in.

Each error is the one that the real event raises: raised by the real event where one can
be arranged (see `wrecks`), and otherwise made the way the interpreter makes it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import sys

from typing import Protocol

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import ResolutionFailure
from pytest_resilience.interceptors.patching import KernelSocket
from pytest_resilience.interceptors.patching import kernel_socket
from pytest_resilience.interceptors.patching import tls_modules
from pytest_resilience.interceptors.sockets import real_errors
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.waiting import wait


if sys.platform != "win32":
    import fcntl
    import termios


__all__ = [
    "Receiver",
    "available",
    "await_answer",
    "await_more",
    "end",
    "fail",
    "hear_no_more",
    "hold_a_call",
    "hold_before",
    "hold_sending",
    "hold_until",
    "name_resolution_failure",
    "no_room",
    "nothing_yet",
    "readable",
    "silenced",
    "speaks_tls",
]


class Receiver(Protocol):
    """What something is received from: a socket, or what takes the place of one.

    One that speaks TLS has a method `pending` as well.
    """

    def gettimeout(self) -> float | None:
        """In seconds; None for no limit."""


def hold_before(sock: socket.socket, effect: Effect, timed_out: str) -> float | None:
    """Do to a connect or handshake what `effect` says, before it is tried.

    Returns the timeout, in seconds, that is left for the real attempt (None: no limit).
    Past the socket's own, raises TimeoutError with the text `timed_out`.
    """
    __tracebackhide__ = True
    limit = sock.gettimeout()
    left = limit
    if effect.delay:
        taken = _hold(effect, effect.delay, limit, timed_out)
        left = None if limit is None else max(limit - taken, 1e-6)  # 0 would mean non-blocking
    fail(sock, effect.failure)
    return left


def await_answer(sock: socket.socket, link: Link, effect: Effect, asked_at: float) -> None:
    """Hold the answer on `link` back until it may arrive, or the socket's timeout.

    The delay comes on top of what the peer takes: an answer that is not there yet is
    delayed from its arrival on, one that is there from the last send on, which is the
    latest it can have left. What it took to decide, since the client has asked for the
    answer at `asked_at` in monotonic seconds, is not the peer's doing. Where the answer is
    lost anyway, nobody waits for it to arrive.
    """
    __tracebackhide__ = True
    clock, limit = effect.clock, sock.gettimeout()
    started = clock.monotonic()
    if link.due is None:
        failure = effect.failure
        lost = failure is not None and not failure.answered
        if lost or effect.delay == float("inf") or readable(sock, 0):
            link.due = link.sent_at + effect.delay
        elif readable(sock, limit):
            link.due = clock.monotonic() + effect.delay - (started - asked_at)
        else:
            raise TimeoutError(_timed_out(sock))
        if 0 < effect.delay < float("inf"):  # of which some has passed while that was found out
            now = clock.monotonic()
            effect.add_delay(min(now - asked_at, effect.delay - (link.due - now)))
    now = clock.monotonic()
    rest = None if limit is None else max(0.0, limit - (now - asked_at))
    _hold(effect, max(0.0, link.due - now), rest, _timed_out(sock))


def await_more(sock: socket.socket) -> None:
    """Wait until there is something to receive, and take nothing; or the socket's timeout."""
    __tracebackhide__ = True
    if not available(sock) and not readable(sock, sock.gettimeout()):
        raise TimeoutError(_timed_out(sock))


def fail(sock: socket.socket, fault: Fault | None) -> None:
    """Let `fault` happen to `sock`, if it is one that fails.

    A refusal raises here. A reset is met by whatever is done to the socket next.
    """
    __tracebackhide__ = True
    if isinstance(fault, Refusal):
        real_errors.refuse(sock)
        raise _os_error(errno.ECONNREFUSED)
    if isinstance(fault, (Reset, LostResponse)):
        try:
            real_errors.tear_down(sock)
        except OSError:  # no descriptor to be had; or closed meanwhile, as will be noticed
            if sock.fileno() >= 0:
                raise _os_error(errno.ECONNRESET) from None


def hold_until(sock: Receiver, due: float, effect: Effect) -> None:
    """Hold a receive up until `due`, in monotonic seconds, or the socket's timeout."""
    __tracebackhide__ = True
    rest = due - effect.clock.monotonic()
    if rest > 0:
        _hold(effect, rest, sock.gettimeout(), _timed_out(sock))


def hold_sending(sock: socket.socket, effect: Effect) -> None:
    """Hold a send up until the experiments have ended, or the socket's timeout."""
    __tracebackhide__ = True
    timed_out = "The write operation timed out" if speaks_tls(sock) else "timed out"
    _hold(effect, float("inf"), sock.gettimeout(), timed_out)


def hold_a_call(effect: Effect) -> None:
    """Hold up a call that has no timeout of its own."""
    __tracebackhide__ = True
    if effect.delay:
        _hold(effect, effect.delay, None, "")


def end(sock: socket.socket) -> None:
    """Let the peer of `sock` have closed the connection, in good order."""
    try:
        real_errors.end(sock)
    except OSError:  # no descriptor to be had, or closed meanwhile
        hear_no_more(sock)


def hear_no_more(sock: socket.socket) -> None:
    """Let the end of the stream be all that is still received; pollers are told at once."""
    with contextlib.suppress(OSError):  # the peer was faster
        KernelSocket.shutdown(kernel_socket(sock), socket.SHUT_RD)


def name_resolution_failure(fault: ResolutionFailure) -> socket.gaierror:
    """What `getaddrinfo` raises when no name server answers, or none knows the name."""
    if fault.known:
        return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _timed_out(sock: Receiver) -> str:
    """What a receive says when the socket's own timeout is over."""
    return "The read operation timed out" if speaks_tls(sock) else "timed out"


def _hold(effect: Effect, delay: float, limit: float | None, timed_out: str) -> float:
    """Wait `delay` seconds; past `limit` raise the socket's timeout, as it would by itself."""
    __tracebackhide__ = True
    too_long = limit is not None and delay > limit
    taken = wait(effect.clock, limit if too_long and limit is not None else delay, effect.left)
    effect.add_delay(taken)
    if too_long and effect.left() > 0:
        raise TimeoutError(timed_out)
    if delay == float("inf") and limit is None and not effect.transient:
        raise silenced()
    return taken


def silenced() -> OSError:
    """What a receive without a timeout raises when the kernel gives up on a peer."""
    error = _os_error(errno.ETIMEDOUT)
    error.add_note(
        "No timeout is set on this socket: the peer's silence would have lasted until the "
        "kernel gave up, here it ended with the experiment."
    )
    return error


def no_room(sock: Receiver) -> OSError:
    """What a non-blocking send raises when the kernel takes no more."""
    return _would_block(sock, "SSLWantWriteError", "SSL_ERROR_WANT_WRITE", "write")


def nothing_yet(sock: Receiver) -> OSError:
    """What a non-blocking receive raises when there is nothing to receive yet."""
    return _would_block(sock, "SSLWantReadError", "SSL_ERROR_WANT_READ", "read")


def _would_block(sock: Receiver, error: str, code: str, deed: str) -> OSError:
    if not speaks_tls(sock):
        return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    ssl = tls_modules()[0]  # whoever has such a socket has loaded it
    made: OSError = getattr(ssl, error)(
        getattr(ssl, code), f"The operation did not complete ({deed})"
    )
    return made


def speaks_tls(sock: object) -> bool:
    """Whether TLS is made within the socket itself."""
    return hasattr(sock, "pending")


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def readable(sock: socket.socket, timeout: float | None) -> bool:
    """Whether there is something to receive, or comes within `timeout` seconds."""
    pending = getattr(sock, "pending", None)  # TLS: decrypted already, invisible to the kernel
    if pending is not None and pending():
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], timeout)[0])
    poll = select.poll()  # needs no descriptor, of which there may be none left
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))


def available(sock: socket.socket) -> int:
    """How many bytes there are for a receive, decrypted or else as the kernel has them."""
    pending = getattr(sock, "pending", None)
    if pending is not None and (decrypted := pending()):
        return int(decrypted)
    found = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, found)
    except (OSError, ValueError):  # closed
        return 0
    return int.from_bytes(found, sys.byteorder)
