"""What is called once a run's faults are over: invariants, and whether it works again."""

from __future__ import annotations

import inspect
import io
import socket

from collections.abc import Callable
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from pytest_resilience.chaos.possible_faults import CANCELS
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import ResilienceError
from pytest_resilience.exploration.outcome import MISTAKES
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.plugin.matrix.deadline import KnownHangs
from pytest_resilience.plugin.matrix.deadline import deadline
from pytest_resilience.plugin.pytest_internals import values_of_function_fixtures


__all__ = ["arguments", "may_fail_so", "raised_by"]

# What connections and sessions of databases have: of the DB-API, and of drivers without it.
_SESSIONS = ("commit", "rollback", "close"), ("transaction", "is_closed", "close")


def raised_by(
    function: Callable[..., object],
    item: pytest.Item,
    limit: float,
    values: Mapping[str, Any] = MappingProxyType({}),
    hangs: KnownHangs | None = None,
) -> BaseException | None:
    """What a function raises that is given the test's fixtures by its parameters.

    `values`: instead of those of some fixtures.
    """
    try:
        with deadline(limit, hangs):
            given = arguments(function, item)
            found = function(**{name: values.get(name, each) for name, each in given.items()})
            if inspect.iscoroutine(found):
                import asyncio

                asyncio.run(found)
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException as error:
        return error
    return None


def arguments(function: Callable[..., object], item: pytest.Item) -> dict[str, Any]:
    """The fixtures of the test that it asks for."""
    fixtures = getattr(item, "funcargs", {})
    is_test = function == getattr(item, "runtest", None)
    names = () if is_test else inspect.signature(function).parameters
    return {name: fixtures[name] for name in names if name in fixtures}


def may_fail_so(item: pytest.Item, error: BaseException | None, schedule: Schedule) -> bool:
    """Whether the test may fail so when it runs once more, after it has failed under faults.

    A breaker that is open answers with something else. It does not open when its caller is
    cancelled: who gets a wrong answer afterwards got that of the call that was. And what serves
    for one conversation is over with its fault: whoever opened it, here a fixture, opens another.
    """
    if isinstance(error, ClockStalledError) or not schedule:
        return False
    if isinstance(error, ResilienceError):
        return True
    if isinstance(error, AssertionError):
        return any(step.fault not in CANCELS for step in schedule)
    is_clean = isinstance(error, Exception) and not isinstance(error, MISTAKES)
    return is_clean and any(map(_is_one_conversation, values_of_function_fixtures(item)))


def _is_one_conversation(value: object) -> bool:
    """Whether it is a connection or a session of a database, a socket or an open file."""
    if isinstance(value, (socket.socket, io.IOBase)):
        return True
    kind = type(value)  # and not the object, of which a mock has whatever it is asked for
    return any(all(callable(getattr(kind, name, None)) for name in each) for each in _SESSIONS)
