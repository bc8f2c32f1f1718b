"""Waits for data as parks, and what they mean for time.

A selector with nothing to report parks, and so do the event loops of asyncio. `Bubble` asks
`Sockets.outlook` whenever nobody runs, before it polls, with all descriptors that members wait for.
To park a receive, see `wait_readable`.
"""

from __future__ import annotations

import select
import selectors
import socket

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from pytest_resilience.virtual_time.bubble import Outlook
from pytest_resilience.virtual_time.bubble import current
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.waiting import Outcome
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["Sockets", "install_selectors", "wait_readable"]

_Select = Callable[..., list[tuple[selectors.SelectorKey, int]]]


class Sockets:
    """The sockets of this process, as far as members wait for them."""

    patience = 0

    def outlook(self, watched: Iterable[int]) -> Outlook:
        """OUTSIDE if one has a peer that may live elsewhere."""
        return Outlook.OUTSIDE if any(map(_has_peer_elsewhere, watched)) else Outlook.QUIET


def _has_peer_elsewhere(fd: int) -> bool:
    """Whether a descriptor's other end may be outside: not one of a listener or a socket pair."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return True  # a pipe
    try:
        peer = sock.getpeername()
    except OSError:
        return False  # nobody is connected yet
    else:
        # Event loops wake themselves by a pair, whose ends have no names.
        return not (sock.family == socket.AF_UNIX and not peer and not sock.getsockname())
    finally:
        sock.detach()


def wait_readable(waits_in: str, fd: int, timeout: int | None, mask: int = select.POLLIN) -> bool:
    """Park this thread until `fd` has data, or another event of `mask`; False if time was up.

    `timeout`: in nanoseconds. Of a thread that waits for real it returns True at once.
    """
    bubble = current()
    if bubble is None:
        return True
    poller = select.poll()
    poller.register(fd, mask)
    if poller.poll(0):
        return True
    return bubble.wait(Waiter(waits_in, ((fd, mask),)), timeout) is not Outcome.TIMED_OUT


def install_selectors(patches: Patches) -> None:
    """Let members that wait in a selector park."""
    for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"):
        shape: Any = getattr(selectors, name, None)
        if shape is not None:
            patches.set(shape, "select", _select(shape.select))


def _select(real: _Select) -> _Select:
    def select_(self: Any, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        bubble = current()
        if bubble is None or (timeout is not None and timeout <= 0):
            return real(self, timeout)
        ready = real(self, 0)
        if ready:
            return ready
        watched = tuple(self.get_map() or ())
        if hasattr(self, "fileno"):
            polled: tuple[tuple[int, int], ...] = ((self.fileno(), select.POLLIN),)
        else:
            polled = tuple((key.fd, _mask(key.events)) for key in self.get_map().values())
        waiter = Waiter("select", polled, watched)
        bubble.wait(waiter, None if timeout is None else nanoseconds(timeout))
        return real(self, 0)

    select_.__name__ = "select"
    return select_


def _mask(events: int) -> int:
    readable = select.POLLIN if events & selectors.EVENT_READ else 0
    return readable | (select.POLLOUT if events & selectors.EVENT_WRITE else 0)
