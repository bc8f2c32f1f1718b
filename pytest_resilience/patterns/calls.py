"""What kind of function somebody gave us, so that it is called the way it wants to be."""

from __future__ import annotations

import functools
import inspect

from collections.abc import Callable
from enum import Enum
from typing import Any


__all__ = ["CallKind", "kind_of"]


class CallKind(Enum):
    """How a callable runs."""

    PLAIN = "plain"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


_TESTS: tuple[tuple[Callable[[Any], bool], CallKind], ...] = (
    (inspect.iscoroutinefunction, CallKind.COROUTINE),
    (inspect.isasyncgenfunction, CallKind.ASYNC_GENERATOR),
    (inspect.isgeneratorfunction, CallKind.GENERATOR),
)


def kind_of(func: Callable[..., Any]) -> CallKind:
    """The kind of `func`, seen through partials and objects with a `__call__`."""
    while isinstance(func, functools.partial):
        func = func.func
    for candidate in (func, getattr(type(func), "__call__", None)):  # noqa: B004  # not whether, but which
        for test, kind in _TESTS:
            if test(candidate):
                return kind
    return CallKind.PLAIN
