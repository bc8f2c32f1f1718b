"""What polls of sockets tell: `select`, `poll` and `epoll` of Python, and `selectors`.

A poll asks the kernel, which knows nothing of faults. So before it asks, that happens which a
receive would meet that waited for the same: a reset, a silence. And what the kernel tells is left
out as long as a receive would find nothing, or a send no room: `PendingReceives` knows, or
`Sender`.

Loops and libraries in C poll by themselves, and so does what `select` made before: they are told
what the kernel is made to say (see `receive_nonblocking`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import operator
import select
import selectors
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from pytest_resilience import proc
from pytest_resilience.chaos.active_experiment import ends_watched
from pytest_resilience.chaos.descriptors import below
from pytest_resilience.chaos.descriptors import transports_of
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import running_loop
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.pending_receives import PendingReceives
from pytest_resilience.interceptors.sockets.send import Sender
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import selector_classes
from pytest_resilience.interceptors.waiting import SLICE
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.patching import Patches
from pytest_resilience.poll_objects import EpollObject
from pytest_resilience.poll_objects import PollObject
from pytest_resilience.poll_objects import number_of


__all__ = ["Polls"]

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_IN, _OUT = 1, 4  # of poll, and of epoll
_ONE_SHOT, _EDGE = 1 << 30, 1 << 31  # of epoll
_SHORT = 0.001  # seconds: `poll` counts no shorter ones
_MOST = (2**31 - 1) / 1000  # seconds: nor do `poll` and `epoll` count more

_Early = dict[tuple[int, int], float]  # seconds that are left, by descriptor and event


class Polls:
    """See the module.

    Attributes:
        targeted: as in `ConnectionTable`: where there is none, nothing is done.
    """

    def __init__(
        self,
        connections: ConnectionTable,
        waiting: PendingReceives,
        sender: Sender,
        patches: Patches,
    ) -> None:
        self._patches = patches
        self._connections = connections
        self.targeted = connections.targeted
        self._waiting = waiting
        self._sender = sender
        self._installed = False

    def install(self) -> None:
        """Reach those who poll from now on, and the selectors that there are."""
        self._installed = True
        self._patches.again("polls", (self, select, *selector_classes()), self._replace)

    def remove(self) -> None:
        """Tell what the kernel does."""
        self._installed = False

    def _replace(self) -> None:
        patches = self._patches
        patches.replace(select, "select", self._by_select)
        if hasattr(select, "poll"):
            patches.replace(select, "poll", self._by_poll)
        if hasattr(select, "epoll"):
            patches.replace(select, "epoll", self._by_epoll)
        for each in selector_classes():
            patches.replace(each, "select", self._by_selector)

    def _by_select(self, original: Callable[..., Any]) -> Callable[..., Any]:
        passing, targeted = self._connections.passing, self.targeted

        @functools.wraps(original)
        def select_(
            readers: Any, writers: Any, others: Any, timeout: float | None = None, /
        ) -> Any:
            __tracebackhide__ = True
            if type(readers) is not list:
                readers = [*readers]
            is_new = False
            for each in readers:
                if id(each) not in passing:
                    self.meet(each)
                    is_new = True
            if not targeted:
                found = original(readers, writers, others, timeout)
                if is_new:
                    for each in found[0]:
                        self.hear(each)
                return found
            seconds = _seconds(timeout, threading.TIMEOUT_MAX)
            if seconds is None:
                return original(readers, writers, others, timeout)
            return self.poll(_Select(original, readers, [*writers], [*others]), seconds)

        return select_

    def _by_poll(self, original: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(original)
        def poll() -> _Poll:
            return _Poll(self, original())

        return poll

    def _by_epoll(self, original: Any) -> Any:
        of_these = {"_polls": self, "_targeted": self.targeted, "_make": original}
        return type("epoll", (_Epoll,), of_these)

    def _by_selector(self, original: Callable[..., Any]) -> Callable[..., Any]:
        passing, targeted = self._connections.passing, self.targeted

        @functools.wraps(original)
        def select(selector: Any, timeout: float | None = None) -> Any:
            __tracebackhide__ = True
            if targeted and not self._is_of_transports():
                return self._select(original, selector, timeout)
            found = original(selector, timeout)
            for key, events in found:
                file = key[0]
                if id(file) not in passing and type(file) is not int:
                    self.meet(file)
                    if events & selectors.EVENT_READ:
                        self.hear(file)
            if targeted and not self._is_of_transports():  # since one of them is known
                return self._select(original, selector, timeout)
            return found

        return select

    def _select(self, original: Callable[..., Any], selector: Any, timeout: Any) -> Any:
        __tracebackhide__ = True
        most = threading.TIMEOUT_MAX if is_a(selector, selectors.SelectSelector) else _MOST
        is_taken = timeout is None or isinstance(timeout, numbers.Real)  # it compares them first
        is_past = is_taken and timeout is not None and timeout <= 0  # which is at once
        seconds = _seconds(0.0 if is_past else timeout, most)
        if seconds is None or not is_taken:
            return original(selector, timeout)
        return self.poll(_Selector(self, original, selector), seconds)

    def _is_of_transports(self) -> bool:
        """Whether transports of asyncio read all that is targeted, and nothing happens to sends."""
        # They hold back by themselves: who polls here is told what the kernel tells.
        noted = transports_of(running_loop())
        for connection in [*self.targeted.values()]:
            if (sock := connection.owner()) is None or (number := sock.fileno()) < 0:
                continue  # it is closed
            reader, sends = noted.get(number), connection.send_queue.requests
            if reader is None or reader.is_closing() or not sends.is_idle:
                return False
        return True

    def meet(self, file: Any) -> None:
        """`file` is polled: know its connection, if it is one."""
        if is_a(file, KernelSocket):
            self._connections.of(file, RECEIVE)

    def hear(self, file: Any) -> None:
        """`file` can be read, before anything was sent: who speaks first is no proxy."""
        connection = or_none(self._connections.known, file) if self._installed else None
        if connection is None or connection not in self._connections.proxies:
            return
        if connection.untargeted:
            or_none(self._connections.receives, file, connection)

    def poll(self, call: _Call, seconds: float) -> Any:
        """What the kernel tells within so many seconds, as far as it is so."""
        __tracebackhide__ = True
        if not (self._installed and self.targeted):
            return call.real(None if seconds == math.inf else seconds)
        ends = MACHINE_CLOCK.monotonic() + seconds
        asked, in_vain = call.asked(), set[tuple[int, int]]()
        while True:
            held = self._early([(each, asked[each]) for each in [*self.targeted] if each in asked])
            # The kernel keeps quiet of what is to be received later, as far as it can.
            loud = {key: each for key, each in held.items() if key[1] == _WRITE or key in in_vain}
            kept = self._kept(asked)
            rest = 0.0 if kept else max(0.0, ends - MACHINE_CLOCK.monotonic())
            if loud and rest:
                _wait_for_others(asked, loud, min(rest, *held.values()))
            rest = 0.0 if loud else min(rest, *held.values(), math.inf)
            found = call.real(None if rest == math.inf else min(rest, _MOST))
            early = self._early(call.ready(found))
            told = call.without(found, early) if early else found
            told = call.also(told, kept) if kept else told
            if any(told) or ends <= MACHINE_CLOCK.monotonic():
                return told
            in_vain |= early.keys() & held.keys()

    def _kept(self, asked: Mapping[int, int]) -> list[int]:
        """What can be read though the kernel has it no more: it was received to know what it is."""
        kept = []
        for descriptor in [*self.targeted]:
            if asked.get(descriptor, 0) & _READ:
                connection = self._connections.targeted_at(descriptor)
                if connection is not None and connection.inbound.unread:
                    kept.append(descriptor)
        return kept

    def lacks_room(self, descriptor: int) -> bool:
        """Whether who sends there was told of no room, and has not come back."""
        connection = self._connections.targeted_at(descriptor)
        return connection is not None and connection.send_queue.requests.rest > 0

    def _early(self, polled: Iterable[tuple[int, int]]) -> _Early:
        """What is not to be told yet of these, for so many seconds."""
        early: _Early = {}
        for descriptor, events in polled:
            connection = self._connections.targeted_at(descriptor)
            sock = None if connection is None else connection.owner()
            if connection is None or sock is None:
                continue
            if events & _READ:
                early[descriptor, _READ] = self._waiting.held_for(sock, connection)
            if events & _WRITE:
                early[descriptor, _WRITE] = self._sender.held_for(connection)
        return {key: seconds for key, seconds in early.items() if seconds}


def _seconds(timeout: Any, most: float, *, below_zero: float | None = None) -> float | None:
    """The number that a call takes for its `timeout`; `math.inf` for ever.

    None if it is one that the real call does not take: asked, it says so.
    """
    if timeout is None:
        return math.inf
    number = operator.index(timeout) if hasattr(type(timeout), "__index__") else timeout
    is_taken = isinstance(number, (int, float)) and -most <= number <= most
    return None if not is_taken else number if number >= 0 else below_zero


def _wait_for_others(asked: Mapping[int, int], loud: _Early, rest: float) -> None:
    """Wait for what is asked for, but for what is `loud`: the kernel would tell of it at once.

    For `rest` seconds at most.
    """
    __tracebackhide__ = True
    seconds = rest
    with contextlib.ExitStack() as stack:
        if not MACHINE_CLOCK.is_exact:
            seconds = min(seconds, SLICE)
        poll = below(select.poll)()
        for descriptor, events in asked.items():
            wanted = events & ~sum(event for number, event in loud if number == descriptor)
            if wanted:
                poll.register(descriptor, _of_poll(wanted))
        if MACHINE_CLOCK.is_exact:  # where each slice would be a jump
            ours, theirs = map(stack.enter_context, socket.socketpair())
            poll.register(ours.fileno(), _IN)
            stack.enter_context(ends_watched(lambda: theirs.sendall(b".")))
            poll.poll(None if seconds == math.inf else min(seconds, _MOST) * 1000)
        elif seconds >= _SHORT:
            poll.poll(int(seconds / _SHORT))
        elif not poll.poll(0):
            wait(MACHINE_CLOCK, seconds, lambda: math.inf)


def _of_poll(events: int) -> int:
    return (_IN if events & _READ else 0) | (_OUT if events & _WRITE else 0)


def _from_poll(events: int) -> int:
    """An end or an error is for who reads."""
    return (_READ if events & ~_OUT else 0) | (_WRITE if events & _OUT else 0)


def _left_of(descriptor: int, events: int, early: _Early) -> int:
    """What is told of the `events` of a poll."""
    if (descriptor, _READ) in early:
        events &= _OUT
    return events & ~_OUT if (descriptor, _WRITE) in early else events


def _also(
    found: Sequence[tuple[int, int]], kept: Sequence[int], readable: int
) -> list[tuple[int, int]]:
    """Those events, and that what is `kept` is `readable`."""
    told = dict(found)
    told |= {descriptor: told.get(descriptor, 0) | readable for descriptor in kept}
    return [*told.items()]


class _Call(Protocol):
    """One call that polls."""

    def asked(self) -> Mapping[int, int]:
        """What it asks for, by descriptor: `_READ` and `_WRITE`."""

    def real(self, timeout: float | None) -> Any:
        """What the kernel tells within so many seconds."""

    def ready(self, found: Any) -> Iterable[tuple[int, int]]:
        """The descriptors in that, and the events of each."""

    def without(self, found: Any, early: _Early) -> Any:
        """The rest of what was found."""

    def also(self, found: Any, kept: Sequence[int]) -> Any:
        """What was found, and that these can be read, which are asked for."""


class _Select:
    """A call of `select`."""

    def __init__(self, original: Callable[..., Any], *files: list[Any]) -> None:
        self._original = original
        self._files = files

    def asked(self) -> Mapping[int, int]:
        asked = dict[int, int]()
        for descriptor, event in self.ready(self._files):
            asked[descriptor] = asked.get(descriptor, 0) | event
        return asked

    def real(self, timeout: float | None) -> Any:
        return self._original(*self._files, timeout)

    def ready(self, found: Any) -> Iterable[tuple[int, int]]:
        for files, event in zip(found, (_READ, _WRITE), strict=False):
            for file in files:
                with contextlib.suppress(Exception):  # it says so itself
                    yield number_of(file), event

    def without(self, found: Any, early: _Early) -> Any:
        readers, writers, others = found
        return (
            [each for each in readers if (number_of(each), _READ) not in early],
            [each for each in writers if (number_of(each), _WRITE) not in early],
            others,
        )

    def also(self, found: Any, kept: Sequence[int]) -> Any:
        readers, *others = found
        more = (each for each in self._files[0] if each not in readers)
        return ([*readers, *(each for each in more if number_of(each) in kept)], *others)


class _Selector:
    """A call of a selector's `select`."""

    def __init__(self, polls: Polls, original: Callable[..., Any], selector: Any) -> None:
        self._polls = polls
        self._original = original
        self._selector = selector

    def asked(self) -> Mapping[int, int]:
        return {fd: key.events for fd, key in [*(self._selector.get_map() or {}).items()]}

    def real(self, timeout: float | None) -> Any:
        return self._original(self._selector, timeout)

    def ready(self, found: Any) -> Iterable[tuple[int, int]]:
        for key, events in found:
            self._polls.meet(key.fileobj)
            yield key.fd, events

    def without(self, found: Any, early: _Early) -> Any:
        left = []
        for key, events in found:
            told = events & ~sum(event for event in (_READ, _WRITE) if (key.fd, event) in early)
            if told:
                left.append((key, told))
        return left

    def also(self, found: Any, kept: Sequence[int]) -> Any:
        keys = self._selector.get_map()
        told = _also([(key.fd, events) for key, events in found], kept, _READ)
        return [(keys[fd], events) for fd, events in told]


class _Poll(PollObject):
    """What `select.poll()` makes."""

    def __init__(self, polls: Polls, made: Any) -> None:
        super().__init__(made)
        self._polls = polls
        self._targeted = polls.targeted

    def register(self, fd: Any, *args: Any) -> None:
        super().register(fd, *args)
        self._polls.meet(fd)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """`timeout`: in milliseconds; None or less than 0 for ever."""
        __tracebackhide__ = True
        if not self._targeted:  # this is all that it costs
            return self._made.poll(timeout)  # type: ignore[no-any-return]
        milliseconds = _seconds(timeout, _MOST / _SHORT, below_zero=math.inf)
        if milliseconds is None:
            return self._made.poll(timeout)  # type: ignore[no-any-return]
        return self._polls.poll(self, milliseconds / 1000)  # type: ignore[no-any-return]

    def asked(self) -> Mapping[int, int]:
        return {fd: _from_poll(mask) for fd, mask in self.masks.items()}

    def real(self, timeout: float | None) -> Any:
        return self._made.poll(None if timeout is None else round(timeout / _SHORT, 6))

    def ready(self, found: Any) -> Iterable[tuple[int, int]]:
        return ((fd, _from_poll(events)) for fd, events in found)

    def without(self, found: Any, early: _Early) -> Any:
        left = ((fd, _left_of(fd, events, early)) for fd, events in found)
        return [(fd, events) for fd, events in left if events]

    def also(self, found: Any, kept: Sequence[int]) -> Any:
        return _also(found, kept, _IN)


class _Epoll(EpollObject):
    """What `select.epoll(…)` makes."""

    _polls: Polls
    _targeted: Mapping[int, object]

    def register(self, fd: Any, *args: Any, **options: Any) -> None:
        super().register(fd, *args, **options)
        self._polls.meet(fd)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """`timeout`: in seconds; None or less than 0 for ever."""
        __tracebackhide__ = True
        if not self._targeted:  # this is all that it costs
            return self._made.poll(timeout, maxevents)  # type: ignore[no-any-return]
        seconds = _seconds(timeout, _MOST, below_zero=math.inf)
        if seconds is None:
            return self._made.poll(timeout, maxevents)  # type: ignore[no-any-return]
        return self._polls.poll(_EpollCall(self._polls, self._made, maxevents), seconds)  # type: ignore[no-any-return]


class _EpollCall:
    """A call of its `poll`."""

    def __init__(self, polls: Polls, made: Any, most: int) -> None:
        self._polls, self._made, self._most = polls, made, most
        self._masks: dict[int, int] = {}

    def asked(self) -> Mapping[int, int]:
        self._masks = dict(proc.polled_by(self._made.fileno()))
        edges = [fd for fd, mask in self._masks.items() if mask & _EDGE and mask & _OUT]
        for fd in filter(self._polls.lacks_room, edges):
            self._tell_again(fd)  # the kernel never saw that there was no room
        return {fd: _from_poll(mask & (_IN | _OUT)) for fd, mask in self._masks.items()}

    def real(self, timeout: float | None) -> Any:
        return self._made.poll(timeout, self._most)

    def ready(self, found: Any) -> Iterable[tuple[int, int]]:
        return ((fd, _from_poll(events)) for fd, events in found)

    def without(self, found: Any, early: _Early) -> Any:
        told = []
        for fd, events in found:
            left = _left_of(fd, events, early)
            if left:
                told.append((fd, left))
            if left != events and self._masks.get(fd, 0) & (_EDGE if left else _EDGE | _ONE_SHOT):
                self._tell_again(fd)  # it has told of nothing yet, or not of all
        return told

    def also(self, found: Any, kept: Sequence[int]) -> Any:
        return _also(found, kept, _IN)

    def _tell_again(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            self._made.modify(fd, self._masks[fd])
