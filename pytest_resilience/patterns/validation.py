"""Checks of configuration fields, so that nonsense fails where it is written.

Each returns the value it was given, or raises TypeError / ConfigurationError (a
ValueError) naming the field, the value and what is allowed.
"""

from __future__ import annotations

import math

from collections.abc import Callable
from typing import Any
from typing import TypeVar

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of


__all__ = [
    "ExceptionTypes", "any_function", "boolean", "clock", "config", "exception_types", "function",
    "integer", "number", "one_of", "text",
]  # fmt: skip

_C = TypeVar("_C")

# What a configuration takes, and `except` too. Each keeps a tuple of it.
ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


def number(  # noqa: D103  # see the module
    field: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    above_low: bool = False,
    infinite: bool = False,
) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{field} must be a number, not {value!r}")
    fits = (low < value if above_low else low <= value) and value <= high
    if not fits or (math.isinf(value) and not infinite):
        raise ConfigurationError(f"{field}={value!r}: {_range(low, high, above_low)} is needed")
    return float(value)


def integer(field: str, value: Any, *, low: int = 0, high: int | None = None) -> int:  # noqa: D103
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field} must be a whole number, not {value!r}")
    if value < low or (high is not None and value > high):
        limit = math.inf if high is None else high
        raise ConfigurationError(f"{field}={value!r}: {_range(low, limit, False)} is needed")
    return value


def boolean(field: str, value: Any) -> bool:  # noqa: D103
    if not isinstance(value, bool):
        raise TypeError(f"{field} must be True or False, not {value!r}")
    return value


def text(field: str, value: Any) -> str:  # noqa: D103
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a text, not {value!r}")
    return value


def function(field: str, value: Any) -> Callable[..., Any] | None:
    """A callable that is no coroutine function, or None."""
    if value is None:
        return None
    if not callable(value):
        raise TypeError(f"{field} must be a function or None, not {value!r}")
    if kind_of(value) is not CallKind.PLAIN:
        raise TypeError(
            f"{field} must be a plain function, not {value!r}: what it returns is used at once"
        )
    return value  # type: ignore[no-any-return]


def any_function(field: str, value: Any) -> Callable[..., Any]:
    """A function or a coroutine function."""
    if not callable(value):
        raise TypeError(f"{field} must be a function or None, not {value!r}")
    kind = kind_of(value)
    if kind not in {CallKind.PLAIN, CallKind.COROUTINE}:
        raise TypeError(f"{field} must be a function, not {value!r}: a {kind.value} never runs")
    return value  # type: ignore[no-any-return]


def config(value: Any, kind: type[_C]) -> _C:
    """A configuration of that kind; None for the default one."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        around = callable(value) and not isinstance(value, type)
        advice = "; to decorate it, make the pattern first, with parentheses" if around else ""
        raise TypeError(f"config must be a {kind.__name__} or None, not {value!r}{advice}")
    return value


def clock(value: Any) -> Any:  # noqa: D103
    if isinstance(value, type) or not hasattr(value, "monotonic"):
        raise TypeError(
            f"clock must have monotonic, time, sleep and asleep, as ManualClock has, not {value!r}"
        )
    return value


def exception_types(field: str, value: Any) -> tuple[type[BaseException], ...]:
    """One exception class or a tuple of them, as a tuple."""
    types = value if isinstance(value, tuple) else (value,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"{field} must be exception classes, not {each!r}")
    return types


def one_of(field: str, value: Any, allowed: tuple[Any, ...]) -> Any:  # noqa: D103
    for each in allowed:
        if value is each or (type(value) is type(each) and value == each):
            return value
    choices = ", ".join(map(repr, allowed))
    raise ConfigurationError(f"{field}={value!r}: one of {choices} is needed")


def _range(low: float, high: float, above_low: bool) -> str:
    if math.isinf(high):
        return f"a finite number {'above' if above_low else 'of at least'} {low:g}"
    return f"a number {'above' if above_low else 'from'} {low:g} to {high:g}"
