"""What kind of function somebody gave us, so that it is called the way it wants to be."""

from __future__ import annotations

import functools
import inspect
import sys

from collections.abc import Callable
from enum import Enum
from types import BuiltinFunctionType
from types import FunctionType
from types import MethodType
from typing import Any
from typing import TypeVar


__all__ = ["CallKind", "calls_its_first", "innermost", "kind_of"]

_F = TypeVar("_F", bound=Callable[..., Any])


class CallKind(Enum):
    """How a callable runs."""

    PLAIN = "plain"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


# Read from the Enum once, not at each call.
_PLAIN = CallKind.PLAIN
_TESTS: tuple[tuple[Callable[[Any], bool], CallKind], ...] = (
    (inspect.iscoroutinefunction, CallKind.COROUTINE),
    (inspect.isasyncgenfunction, CallKind.ASYNC_GENERATOR),
    (inspect.isgeneratorfunction, CallKind.GENERATOR),
)
_FLAGS = {
    inspect.CO_COROUTINE: CallKind.COROUTINE,
    inspect.CO_ASYNC_GENERATOR: CallKind.ASYNC_GENERATOR,
    inspect.CO_GENERATOR: CallKind.GENERATOR,
}
_TELLING = sum(_FLAGS)
_CALLER = "_calls_its_first"


def _mark_of_coroutines() -> str:
    """The attribute that `inspect.markcoroutinefunction` leaves on a function; "" if none."""

    def marked() -> None: ...

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(marked)
    return next(iter(vars(marked)), "")


_MARK = _mark_of_coroutines()


def calls_its_first(func: _F) -> _F:
    """Say of a function, or method, that it calls its first argument with the others.

    So it is of that one's kind: `breaker.call(retry.execute, fetch)` is a coroutine's call
    where `fetch` is a coroutine function.
    """
    setattr(func, _CALLER, True)  # an attribute, so that `functools.wraps` hands it on
    return func


def innermost(func: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """What is called in the end when `func` is called with `args`."""
    while args and getattr(func, _CALLER, None) is True:
        func, args = args[0], args[1:]
    return func


def kind_of(func: Any, args: tuple[Any, ...] = ()) -> CallKind:
    """The kind of `func`, called with `args`: seen through partials and objects with a `__call__`.

    Functions and methods, which nearly all are, are told apart by the flags of their code, in
    a fiftieth of the time that `inspect` takes.
    """
    shape = type(func)
    if shape is FunctionType:
        flag = func.__code__.co_flags & _TELLING
        if flag:
            return _FLAGS[flag]
        if not _MARK or getattr(func, _MARK, None) is None:
            return _PLAIN
    elif shape is MethodType:
        calls_another = args and getattr(func, _CALLER, None) is True
        return kind_of(args[0], args[1:]) if calls_another else kind_of(func.__func__)
    elif shape is BuiltinFunctionType:
        return _PLAIN
    elif isinstance(func, functools.partial):
        return kind_of(func.func, (*func.args, *args))
    return _kind_of_object(func)


def _kind_of_object(func: Any) -> CallKind:
    kind = _by_inspection(func)
    if kind is not _PLAIN:
        return kind
    call = getattr(type(func), "__call__", None)  # noqa: B004  # not whether, but which
    ordinary = isinstance(call, (FunctionType, functools.partial))
    return kind_of(call) if ordinary else _by_inspection(call)


def _by_inspection(func: Any) -> CallKind:
    """The kind that `inspect` sees, asked only about what it may know something of."""
    if hasattr(func, "__code__") or hasattr(func, _MARK):
        return next((kind for test, kind in _TESTS if test(func)), _PLAIN)
    return _PLAIN
