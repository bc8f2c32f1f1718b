"""Which clients in this process wait just now: threads, as the kernel knows, and tasks of loops.

Who waits called something before, maybe before anything was intercepted, and may wait for ever. A
thread that receives or polls waits, and so does a task that has left a callback where it waits. A
loop polls the connections of its pools too, for which nobody waits.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import socket
import struct
import sys
import threading
import weakref

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_resilience import proc
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.call_site import is_awaited
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.chaos.descriptors import transports_of
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import running_loop
from pytest_resilience.locks import values
from pytest_resilience.stacks import is_library


__all__ = [
    "IN_EPOLL",
    "IN_EPOLL_ONCE",
    "IN_POLL",
    "IN_RECEIVE",
    "Wait",
    "awaited_among",
    "loops_at_work",
    "waiting_for",
    "waits",
    "waits_still",
]

IN_RECEIVE: Final = "a thread receives"
IN_POLL: Final = "a thread polls"
IN_EPOLL: Final = "an epoll object, as that of a loop"
IN_EPOLL_ONCE: Final = "such an object, once"
_HOWS: Final = frozenset({IN_RECEIVE, IN_POLL, IN_EPOLL, IN_EPOLL_ONCE})

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
_CONVERSING = frozenset({"websockets"})  # libraries whose connections are used for one conversation
_BY_A_THREAD = frozenset({IN_RECEIVE, IN_POLL})


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
    threads: Iterable[threading.Thread] | None = None,
    *,
    settled: bool = False,
    but: AbstractSet[int | None] = frozenset(),
) -> Iterator[Wait]:
    """What is waited for by these threads; by all, if they are not given.

    `settled`: one that runs may be on its way into the kernel, or out of it, and so wait for
    nothing yet, or no more. It is looked at again until it waits. Those that work may go on.
    `but`: not in these epoll objects.
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
    for poll in polls - but:
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


def awaited_among(addresses: AbstractSet[Any]) -> frozenset[Any]:
    """Those at which a client waits for something."""
    if not addresses:
        return frozenset()
    loops = list(loops_at_work())
    found = {each: _address_of(each) for each in _waited_for(loops) - private_descriptors()}
    # Looked at last: who has closed his meanwhile does not wait, and a new one is known.
    transports = dict(each for loop in loops for each in _open_transports_of(loop))
    return frozenset(
        address
        for descriptor, address in found.items()
        if address in addresses
        and (descriptor not in transports or _is_awaited(transports[descriptor]))
    )


def loops_at_work() -> Iterable[Any]:
    """The loops of asyncio in which there is a task."""
    tasks = sys.modules.get("asyncio.tasks")
    loops: dict[int, Any] = {}
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):  # in this Python and others
        for task in _listed(getattr(tasks, name, ())):
            loop = task.get_loop()
            if not loop.is_closed():
                loops[id(loop)] = loop
    return loops.values()


def waiting_for(protocol: Any, outages: Sequence[ActiveExperiment]) -> Sequence[ActiveExperiment]:
    """Those of the outages that are met by who has this protocol of asyncio.

    A task that waits meets any, and so does who has told a library to call him. A protocol that is
    the user's own, or of a library that keeps no connection for later, is told that it is lost,
    whatever it waits for; unless some responses are meant by number: it may have asked for none.
    """
    if is_awaited(protocol) or _has_listeners(protocol):
        return outages
    protocol = _within_tls(protocol)
    if type(protocol).__module__.partition(".")[0] not in _CONVERSING and is_library(
        _file_of(type(protocol))
    ):
        return ()
    return [
        each for each in outages if each.experiment.hits_all and each.experiment.ends_connections
    ]


def _has_listeners(protocol: Any) -> bool:
    """Whether it is asyncpg's, and a function is called with what PostgreSQL notifies."""
    protocol = _within_tls(protocol)
    if not type(protocol).__module__.startswith("asyncpg."):
        return False
    owners = [each() for each in gc.get_referents(protocol) if type(each) is weakref.ref]
    return any(getattr(each, "_listeners", None) for each in owners)


def _within_tls(protocol: Any) -> Any:
    """What is told of what TLS has decrypted; the protocol itself where there is no TLS."""
    return getattr(protocol, "_app_protocol", None) or protocol


def _file_of(kind: type) -> str:
    return str(getattr(sys.modules.get(kind.__module__), "__file__", None) or "")


def _waited_for(loops: Iterable[Any]) -> set[int]:
    """The descriptors that a thread or a loop waits for, if it waits.

    A library that polls in a thread of its own does so for ever, whether anybody waits or not.
    """
    # uvloop has no selector, and what it polls says nothing of who waits.
    in_c = {
        _epoll_of(loop) for loop in loops if not hasattr(loop, "_selector") and loop.is_running()
    }
    hows = _BY_A_THREAD if None in in_c else _HOWS
    everywhere = waits(proc.threads_of_python(), but=in_c)
    found = {each.descriptor for each in everywhere if each.how in hows}
    for loop in loops:
        with contextlib.suppress(Exception):  # of whatever kind it is
            found.update(_listed(loop._selector.get_map() or ()))  # noqa: SLF001  # has no public name
    return found


def _epoll_of(loop: Any) -> int | None:
    """The epoll object of a loop in C; None if it does not tell."""
    number = getattr(loop, "_get_backend_id", lambda: None)()
    return number if isinstance(number, int) else None


def _open_transports_of(loop: Any) -> Iterator[tuple[int, Any]]:
    for _, transport in values(transports_of(loop)):
        sock = getattr(transport, "_sock", None)
        if sock is not None:
            yield sock.fileno(), transport


def _is_awaited(transport: Any) -> bool:
    with contextlib.suppress(Exception):
        protocol = transport.get_protocol()
        return not transport.is_closing() and (is_awaited(protocol) or _has_listeners(protocol))
    return False


def _address_of(descriptor: int) -> Any:
    with contextlib.suppress(OSError), borrowed(descriptor) as sock:
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            return sock.getsockname()
    return None


def _listed(found: Iterable[Any]) -> list[Any]:
    """What is there, of what another thread may be changing."""
    with contextlib.suppress(Exception):
        return list(found)
    return []
