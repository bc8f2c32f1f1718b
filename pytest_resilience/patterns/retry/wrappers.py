"""Functions, called again when they fail."""

from __future__ import annotations

import functools

from collections.abc import Awaitable
from collections.abc import Callable
from types import AsyncGeneratorType
from types import CoroutineType
from types import GeneratorType
from typing import Any

from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.retry.attempts import Series
from pytest_resilience.patterns.retry.attempts import Surroundings


__all__ = ["go_on", "repeat", "retrying"]


def retrying(around: Surroundings, func: Callable[..., Any]) -> Callable[..., Any]:
    """`func`, tried again; a coroutine function stays one.

    Raises TypeError for a generator function: what it has yielded cannot be taken back.
    """
    wrap = _awaiting if _kind_of(func) is CallKind.COROUTINE else _calling
    return wrap(around, func)


def _kind_of(func: Callable[..., Any], args: tuple[Any, ...] = ()) -> CallKind:
    kind = kind_of(func, args)
    if kind in (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR):
        raise TypeError(
            f"{func!r} is a {kind.value} function; what it has yielded before it fails cannot "
            "be taken back: put the retry around what consumes it"
        )
    return kind


# A first attempt that succeeds makes no object and reads no clock: that is why it is written
# out before `repeat` in each of these, and in `RetryHandler.execute`.


def _calling(around: Surroundings, func: Callable[..., Any]) -> Callable[..., Any]:
    begin, unwanted = around.begin if around.begins else None, around.config.retry_on_result

    @functools.wraps(func)
    def retried(*args: Any, **kwargs: Any) -> Any:
        started = None if begin is None else begin()
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            series = Series(around, started)
            if not series.raised(error):
                raise
        else:
            if unwanted is None and type(result) is not CoroutineType:
                return result
            return go_on(around, started, func, args, kwargs, result=result)
        return repeat(series, func, args, kwargs)

    return retried


def _awaiting(around: Surroundings, func: Callable[..., Any]) -> Callable[..., Any]:
    begin, unwanted = around.begin if around.begins else None, around.config.retry_on_result

    @functools.wraps(func)
    async def retried(*args: Any, **kwargs: Any) -> Any:
        started = None if begin is None else begin()
        try:
            result = await func(*args, **kwargs)
        except Exception as error:
            series = Series(around, started)
            if not series.raised(error):
                raise
        else:
            if unwanted is None:
                return result
            series = Series(around, started)
            if series.returned(result):
                return result
        return await _repeat_async(series, func, args, kwargs)

    return retried


def go_on(
    around: Surroundings,
    started: float | None,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    result: Any,
) -> Any:
    """What becomes of a first attempt's result that may not be the end of it."""
    if type(result) is CoroutineType:
        return _await_first(around, started, func, args, kwargs, under_way=result)
    if isinstance(result, (GeneratorType, AsyncGeneratorType)):
        _kind_of(func, args)  # nothing in a generator has run by now
    series = Series(around, started)
    return result if series.returned(result) else repeat(series, func, args, kwargs)


def repeat(
    series: Series, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wait and call `func`, until it succeeds or is to be tried no more."""
    while True:
        series.pause()
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            if not series.raised(error):
                raise
        else:
            # A plain function that hands out a coroutine, as a lambda does.
            if type(result) is CoroutineType:
                return _repeat_async(series, func, args, kwargs, result)
            if series.returned(result):
                return result


async def _await_first(
    around: Surroundings,
    started: float | None,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    under_way: Awaitable[Any],
) -> Any:
    try:
        result = await under_way
    except Exception as error:
        series = Series(around, started)
        if not series.raised(error):
            raise
    else:
        if around.config.retry_on_result is None:
            return result
        series = Series(around, started)
        if series.returned(result):
            return result
    return await _repeat_async(series, func, args, kwargs)


async def _repeat_async(
    series: Series,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    under_way: Awaitable[Any] | None = None,
) -> Any:
    """Await `under_way`, which `func` has returned already, and go on as `repeat` does."""
    while True:
        await series.apause()
        try:
            attempt, under_way = under_way or func(*args, **kwargs), None
            result = await attempt
        except BaseException as error:
            if not series.raised(error):
                raise
        else:
            if series.returned(result):
                return result
