"""Who can read an object: our own, an adapter of its library, or one that was added.

An adapter is looked for only when its library is loaded: else nothing can be of it.
"""

from __future__ import annotations

import sys

from collections.abc import Callable
from types import CellType
from typing import TypeVar

from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.assertions.readings import Reader
from pytest_resilience.assertions.readings import RetryReading


__all__ = ["add_reader", "read_circuit", "read_retry"]

_Reading = TypeVar("_Reading", CircuitReading, RetryReading)

_added: list[Reader] = []


def add_reader(reader: Reader) -> Callable[[], None]:
    """Ask `reader` too, before all others; call the result to ask it no more."""
    _added.append(reader)
    return lambda: _added.remove(reader)


def read_circuit(breaker: object) -> CircuitReading:
    """What a breaker, or a function behind one, is like. Raises TypeError if nobody can tell."""
    return _read(breaker, CircuitReading, "a circuit breaker")


def read_retry(retry: object) -> RetryReading:
    """What a retry, or a function behind one, did last. Raises TypeError if nobody can tell."""
    return _read(retry, RetryReading, "a retry")


def _read(thing: object, kind: type[_Reading], what: str) -> _Reading:
    readers = _readers()
    for each in _candidates(thing):
        for reader in readers:
            reading = reader(each)
            if isinstance(reading, kind):
                return reading
    raise TypeError(
        f"{thing!r} cannot be read as {what}; for one of a library that is not known, add a "
        "reader with the hook pytest_resilience_adapters, or with add_reader"
    )


def _candidates(thing: object) -> list[object]:
    """The object, and what a decorated function holds on to: there its decorator is."""
    cells: tuple[CellType, ...] = getattr(thing, "__closure__", None) or ()
    return [thing, *(each.cell_contents for each in cells if _is_filled(each))]


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # the only way to ask
    except ValueError:
        return False
    return True


def _readers() -> list[Reader]:
    from pytest_resilience.assertions.adapters import own_patterns

    found = [*reversed(_added), own_patterns.read]
    if "pybreaker" in sys.modules:
        from pytest_resilience.assertions.adapters import pybreaker

        found.append(pybreaker.read)
    if "circuitbreaker" in sys.modules:
        from pytest_resilience.assertions.adapters import circuitbreaker

        found.append(circuitbreaker.read)
    if "aiobreaker" in sys.modules:
        from pytest_resilience.assertions.adapters import aiobreaker

        found.append(aiobreaker.read)
    if "purgatory" in sys.modules:
        from pytest_resilience.assertions.adapters import purgatory

        found.append(purgatory.read)
    if "tenacity" in sys.modules:
        from pytest_resilience.assertions.adapters import tenacity

        found.append(tenacity.read)
    if "urllib3" in sys.modules:
        from pytest_resilience.assertions.adapters import urllib3

        found.append(urllib3.read)
    from pytest_resilience.assertions.adapters import hook_events

    return [*found, hook_events.read]
