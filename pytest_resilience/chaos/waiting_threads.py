"""For which descriptors the threads of this process wait just now, as the kernel knows.

Who waits called something before, maybe before anything was intercepted, and may wait for ever.
"""

from __future__ import annotations

import contextlib
import platform
import struct
import sys
import threading

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Final
from typing import NamedTuple

from pytest_resilience import proc
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import running_loop


__all__ = [
    "HOWS",
    "IN_EPOLL",
    "IN_EPOLL_ONCE",
    "IN_POLL",
    "IN_RECEIVE",
    "Wait",
    "waits",
    "waits_still",
]

IN_RECEIVE: Final = "a thread receives"
IN_POLL: Final = "a thread polls"
IN_EPOLL: Final = "an epoll object, as that of a loop"
IN_EPOLL_ONCE: Final = "such an object, once"
HOWS: Final = frozenset({IN_RECEIVE, IN_POLL, IN_EPOLL, IN_EPOLL_ONCE})

# The numbers of the system calls in which threads wait, by the kernel's name of the machine.
_CALLS = {
    "x86_64": {
        "receive": (0, 45, 47), "poll": (7, 271), "select": (23, 270), "epoll": (232, 281),
    },
    "aarch64": {"receive": (63, 207, 212), "poll": (73,), "select": (72,), "epoll": (22,)},
}  # fmt: skip
_POLLED = struct.Struct("ihh")
_READABLE = 1  # POLLIN and EPOLLIN
_ONE_SHOT = 1 << 30  # EPOLLONESHOT, as trio polls
_MOST_POLLED = 4096  # descriptors
_LOOKS, _SOON = 10, 0.0001  # seconds between them: it takes microseconds to begin to wait


class Wait(NamedTuple):
    """That something is waited for.

    Attributes:
        descriptor: of what.
        how: one of the above.
        thread: the kernel's number of the thread that does; None of those in an epoll object.
    """

    descriptor: int
    how: str
    thread: int | None = None


def waits(
    threads: Iterable[threading.Thread] | None = None, *, settled: bool = False
) -> Iterator[Wait]:
    """What is waited for by these threads; by all, if they are not given.

    `settled`: one that runs may be on its way into the kernel, or out of it, and so wait for
    nothing yet, or no more. It is looked at again until it waits. Those that work may go on.
    """
    polls = set[int]()
    if (selector := _selector_here()) is not None:
        polls.add(selector)
    left = [proc.number_of_thread(each) for each in threads or threading.enumerate()]
    # In virtual time, of which looking again would take some, they wait for each other.
    for look in range(_LOOKS if settled and not MACHINE_CLOCK.is_exact else 1):
        if look:
            MACHINE_CLOCK.sleep(_SOON)
        running = []
        for number in left:
            call = proc.system_call_of(number)
            if call is None and proc.state_of(number) == "R":
                running.append(number)
            name, given = _named(call)
            if name == "receive":
                yield Wait(given[0], IN_RECEIVE, number)
            elif name in _POLLED_BY:
                for descriptor in _POLLED_BY[name](*given[:2]):
                    yield Wait(descriptor, IN_POLL, number)
            elif name == "epoll":
                polls.add(given[0])
        if not (left := running):
            break
    for poll in polls:
        yield from _registered(poll)


def waits_still(wait: Wait) -> bool:
    """Whether that thread sleeps in such a call now."""
    name, given = _named(proc.system_call_of(wait.thread))
    if name in _POLLED_BY:
        return wait.how == IN_POLL and wait.descriptor in _POLLED_BY[name](*given[:2])
    return name == "receive" and wait.how == IN_RECEIVE and given[0] == wait.descriptor


def _selector_here() -> int | None:
    """What the loop polls that runs in this thread, and so does not wait just now."""
    trio = sys.modules.get("trio._core._run")
    runner = getattr(getattr(trio, "GLOBAL_RUN_CONTEXT", None), "runner", None)
    polled = getattr(running_loop(), "_selector", None) or getattr(
        getattr(runner, "io_manager", None), "_epoll", None
    )
    with contextlib.suppress(Exception):  # it is somebody else's
        return None if polled is None else int(polled.fileno())
    return None


def _named(call: tuple[int, list[int]] | None) -> tuple[str, list[int]]:
    """What a thread waits in that is in this system call, and its arguments; "" if it does not."""
    calls: Mapping[str, tuple[int, ...]] = _CALLS.get(platform.machine(), {})
    number, given = call or (-1, [])
    return next(((name, given) for name, numbers in calls.items() if number in numbers), ("", []))


def _polled(address: int, count: int) -> Iterator[int]:
    size = min(count, _MOST_POLLED) * _POLLED.size
    found = proc.read("/proc/self/mem", size=size, at=address)
    for descriptor, events, _ in _POLLED.iter_unpack(found if len(found) == size else b""):
        if events & _READABLE:
            yield descriptor


def _selected(count: int, address: int) -> Iterator[int]:
    size = (count + 7) // 8
    bits = int.from_bytes(proc.read("/proc/self/mem", size=size, at=address), sys.byteorder)
    return (descriptor for descriptor in range(count) if bits >> descriptor & 1)


_POLLED_BY = {"poll": _polled, "select": _selected}


def _registered(poll: int) -> Iterator[Wait]:
    """What an epoll object is asked to tell of when it can be read."""
    for descriptor, events in proc.polled_by(poll):
        if events & _READABLE:
            yield Wait(descriptor, IN_EPOLL_ONCE if events & _ONE_SHOT else IN_EPOLL)
