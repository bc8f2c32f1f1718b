"""Which clients in this process wait just now, for those who see nothing but their connections.

A thread that receives or polls does, as the kernel knows; and a task that has left a callback where
it waits. A loop polls the connections of its pools too, for which nobody waits.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import weakref

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pytest_resilience import proc
from pytest_resilience.chaos import waiting_threads
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.call_site import is_awaited
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.stacks import is_library


__all__ = ["awaited_among", "loops_at_work", "waiting_for"]

_CONVERSING = frozenset({"websockets"})  # libraries whose connections are used for one conversation
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
