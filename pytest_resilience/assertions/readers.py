"""The readers of breakers and retries: those added, our own, and one for each library.

A reader is asked only when its library is loaded: else no object can be of it.
"""

from __future__ import annotations

import sys

from collections.abc import Callable
from types import CellType
from typing import TypeVar

from pytest_resilience.assertions.other_breakers import read_aiobreaker
from pytest_resilience.assertions.other_breakers import read_circuitbreaker
from pytest_resilience.assertions.other_breakers import read_purgatory
from pytest_resilience.assertions.other_breakers import read_pybreaker
from pytest_resilience.assertions.other_retries import read_hook_events
from pytest_resilience.assertions.other_retries import read_tenacity
from pytest_resilience.assertions.other_retries import read_urllib3
from pytest_resilience.assertions.own_patterns import read_own_patterns
from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.assertions.readings import Reader
from pytest_resilience.assertions.readings import RetryReading


__all__ = ["add_reader", "read_circuit", "read_retry"]

_Reading = TypeVar("_Reading", CircuitReading, RetryReading)

_LIBRARIES: dict[str, Reader] = {
    "pybreaker": read_pybreaker,
    "circuitbreaker": read_circuitbreaker,
    "aiobreaker": read_aiobreaker,
    "purgatory": read_purgatory,
    "tenacity": read_tenacity,
    "urllib3": read_urllib3,
}
_added: list[Reader] = []


def add_reader(reader: Reader) -> Callable[[], None]:
    """Ask `reader` too, before all others. Returns a function that removes it."""
    _added.append(reader)
    return lambda: _added.remove(reader)


def read_circuit(breaker: object) -> CircuitReading:
    """Read a breaker, or a function it decorates. Raises TypeError if no reader knows it."""
    return _read(breaker, CircuitReading, "a circuit breaker")


def read_retry(retry: object) -> RetryReading:
    """Read a retry, or a function it decorates. Raises TypeError if no reader knows it."""
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
    """The object, and what a function's closure holds: there its decorator is."""
    # Decorators of most libraries keep themselves in a variable of the function they return.
    cells: tuple[CellType, ...] = getattr(thing, "__closure__", None) or ()
    return [thing, *(each.cell_contents for each in cells if _is_filled(each))]


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # the only way to ask
    except ValueError:
        return False
    return True


def _readers() -> list[Reader]:
    loaded = [read for library, read in _LIBRARIES.items() if library in sys.modules]
    return [*reversed(_added), read_own_patterns, *loaded, read_hook_events]
