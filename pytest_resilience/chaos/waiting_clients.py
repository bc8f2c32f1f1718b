"""Which clients in this process wait just now, for those who see nothing but their connections.

A thread that receives or polls does, as the kernel knows; and a task that has left a callback where
it waits. A loop polls the connections of its pools too, for which nobody waits.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from pytest_resilience import proc
from pytest_resilience.chaos import waiting_threads
from pytest_resilience.chaos.call_site import is_awaited
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import private_descriptors


__all__ = ["awaited_among", "loops_at_work"]

_BY_A_THREAD = frozenset({waiting_threads.IN_RECEIVE, waiting_threads.IN_POLL})


def awaited_among(addresses: AbstractSet[Any]) -> frozenset[Any]:
    """Those at which a client waits for something."""
    if not addresses:
        return frozenset()
    loops = list(loops_at_work())
    found = {each: _address_of(each) for each in _polled(loops) - private_descriptors()}
    # Looked at last: who has closed his meanwhile does not wait, and a new one is known.
    transports = dict(each for loop in loops for each in _transports_of(loop))
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


def _polled(loops: Iterable[Any]) -> set[int]:
    """The descriptors that a thread or a loop waits for, if it waits.

    A library that polls in a thread of its own does so for ever, whether anybody waits or not.
    """
    selectors = [getattr(loop, "_selector", None) for loop in loops]
    # uvloop has none, and what it polls says nothing of who waits.
    hows = _BY_A_THREAD if None in selectors else waiting_threads.HOWS
    waits = waiting_threads.waits(proc.threads_of_python())
    found = {each.descriptor for each in waits if each.how in hows}
    for each in filter(None, selectors):
        with contextlib.suppress(Exception):  # of whatever kind it is
            found.update(_listed(each.get_map() or ()))
    return found


def _transports_of(loop: Any) -> Iterator[tuple[int, Any]]:
    noted = getattr(loop, "_transports", None)
    for each in _listed(getattr(noted, "valuerefs", tuple)()):
        transport = each()
        sock = getattr(transport, "_sock", None)
        if sock is not None:
            yield sock.fileno(), transport


def _is_awaited(transport: Any) -> bool:
    with contextlib.suppress(Exception):
        return not transport.is_closing() and is_awaited(transport.get_protocol())
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
