"""What a fault does to a socket: the waits, the errors, and the state it is left in.

Each error is the one that the real event raises, made the way the interpreter makes it:
`OSError(errno, text)` becomes the right subclass by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults import Fault
from pytest_resilience.chaos.faults import Refusal
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.seams.links import Link
from pytest_resilience.seams.waiting import wait


__all__ = ["await_answer", "before_connect", "fail", "name_resolution_failure"]

# Unlike epoll, poll needs no descriptor of its own: there may be none left to have.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def before_connect(sock: socket.socket, effect: Effect) -> float | None:
    """Do to a connect what `effect` says, before it is tried.

    Returns the timeout, in seconds, that is left for the real attempt (None: no limit).
    """
    __tracebackhide__ = True
    limit = sock.gettimeout()
    left = limit
    if effect.delay:
        taken = _hold(effect, effect.delay, limit)
        left = None if limit is None else max(limit - taken, 1e-6)  # 0 would mean non-blocking
    fail(sock, effect.failure)
    return left


def await_answer(sock: socket.socket, link: Link, effect: Effect) -> None:
    """Hold the answer on `link` back until it may arrive, or the socket's timeout.

    The delay comes on top of what the peer takes: an answer that is not there yet is
    delayed from its arrival on, one that is there from the last send on, which is the
    latest it can have left. Where it is lost anyway, nobody waits for it to arrive.
    """
    __tracebackhide__ = True
    clock, limit = effect.clock, sock.gettimeout()
    started = clock.monotonic()
    if link.due is None:
        lost = effect.delay == float("inf") or effect.failure is not None
        if lost or _readable(sock, 0):
            link.due = link.sent_at + effect.delay
        elif _readable(sock, limit):
            link.due = clock.monotonic() + effect.delay
        else:
            raise _timeout_of(sock)
    rest = None if limit is None else max(0.0, limit - (clock.monotonic() - started))
    _hold(effect, max(0.0, link.due - clock.monotonic()), rest, sock)


def fail(sock: socket.socket, fault: Fault | None) -> None:
    """Raise what `fault` raises, if it is one that fails, and leave `sock` as it does."""
    __tracebackhide__ = True
    if isinstance(fault, Refusal):
        raise _os_error(errno.ECONNREFUSED)
    if isinstance(fault, Reset):
        # After a real reset a send meets EPIPE and a receive the end of the stream.
        with contextlib.suppress(OSError):  # the peer was faster
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        raise _os_error(errno.ECONNRESET)


def name_resolution_failure() -> socket.gaierror:
    """What `getaddrinfo` raises when no name server answers."""
    return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def _timeout_of(sock: socket.socket) -> TimeoutError:
    """What the socket raises when its own timeout is over."""
    return TimeoutError("The read operation timed out" if hasattr(sock, "pending") else "timed out")


def _hold(
    effect: Effect, delay: float, limit: float | None, sock: socket.socket | None = None
) -> float:
    """Wait `delay` seconds; past `limit` raise the socket's timeout, as it would by itself."""
    __tracebackhide__ = True
    timed_out = limit is not None and delay > limit
    taken = wait(effect.clock, limit if timed_out and limit is not None else delay, effect.over)
    effect.waited(taken)
    if timed_out and not effect.over():
        raise _timeout_of(sock) if sock is not None else TimeoutError("timed out")
    if delay == float("inf") and limit is None:
        error = _os_error(errno.ETIMEDOUT)
        error.add_note(
            "No timeout is set on this socket: the peer's silence would have lasted until the "
            "kernel gave up, here it ended with the experiment."
        )
        raise error
    return taken


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _readable(sock: socket.socket, timeout: float | None) -> bool:
    """Whether there is something to receive, or comes within `timeout` seconds."""
    pending = getattr(sock, "pending", None)  # TLS: decrypted already, invisible to the kernel
    if pending is not None and pending():
        return True
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(timeout))
