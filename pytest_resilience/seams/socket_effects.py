"""What a fault does to a socket: the waits, the errors, and the state it is left in.

Each error is the one that the real event raises: raised by the real event where one can
be arranged (see `wrecks`), and otherwise made the way the interpreter makes it.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import selectors
import socket

from typing import Any

from pytest_resilience.chaos.answers import MadeUpAnswer
from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults import Fault
from pytest_resilience.chaos.faults import Refusal
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.seams import wrecks
from pytest_resilience.seams.links import Link
from pytest_resilience.seams.waiting import wait


__all__ = [
    "await_answer",
    "fail",
    "hold_before",
    "name_resolution_failure",
    "receive_instead",
    "serve",
]

# Unlike epoll, poll needs no descriptor of its own: there may be none left to have.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


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
            raise TimeoutError(_timed_out(sock))
    rest = None if limit is None else max(0.0, limit - (clock.monotonic() - started))
    _hold(effect, max(0.0, link.due - clock.monotonic()), rest, _timed_out(sock))


def fail(sock: socket.socket, fault: Fault | None) -> None:
    """Let `fault` happen to `sock`, if it is one that fails.

    A refusal raises here. A reset is met by whatever is done to the socket next.
    """
    __tracebackhide__ = True
    if isinstance(fault, Refusal):
        wrecks.refuse(sock)
        raise _os_error(errno.ECONNREFUSED)
    if isinstance(fault, Reset):
        try:
            wrecks.tear_down(sock)
        except OSError:  # no descriptor to be had; or closed meanwhile, as will be noticed
            if sock.fileno() >= 0:
                raise _os_error(errno.ECONNRESET) from None


def receive_instead(
    sock: socket.socket, link: Link, effect: Effect, receive: functools.partial[Any]
) -> Any:
    """What is received once the wait is over: the answer, or what `effect` says instead."""
    __tracebackhide__ = True
    fault = effect.failure
    if isinstance(fault, MadeUpAnswer):
        link.script = io.BytesIO(fault.message)
        return serve(link.script, receive)
    fail(sock, fault)
    return receive()


def serve(script: io.BytesIO, receive: functools.partial[Any]) -> Any:
    """Give what is left of `script` to a receive, in its way; at the end, the end of file."""
    _, *given = receive.args
    name = receive.func.__name__
    if name == "recv_into":
        buffer, size = memoryview(given[0]).cast("B"), (*given[1:], 0)[0]
        return script.readinto(buffer[: size or len(buffer)])
    if name == "read" and len(given) > 1:
        return script.readinto(given[1])
    if name in ("recv", "read"):
        return script.read(given[0] if given else 1024)
    raise _os_error(errno.ECONNRESET)  # no client that speaks HTTP receives like this


def name_resolution_failure() -> socket.gaierror:
    """What `getaddrinfo` raises when no name server answers."""
    return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def _timed_out(sock: socket.socket) -> str:
    """What a receive says when the socket's own timeout is over."""
    return "The read operation timed out" if hasattr(sock, "pending") else "timed out"


def _hold(effect: Effect, delay: float, limit: float | None, timed_out: str) -> float:
    """Wait `delay` seconds; past `limit` raise the socket's timeout, as it would by itself."""
    __tracebackhide__ = True
    too_long = limit is not None and delay > limit
    taken = wait(effect.clock, limit if too_long and limit is not None else delay, effect.left)
    effect.waited(taken)
    if too_long and effect.left() > 0:
        raise TimeoutError(timed_out)
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
