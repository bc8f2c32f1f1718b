"""Functions that are called again when they fail."""

from __future__ import annotations

import functools

from collections.abc import Awaitable
from collections.abc import Callable
from types import AsyncGeneratorType
from types import GeneratorType
from typing import Any

from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import generator_error
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.retry.attempts import CallState
from pytest_resilience.patterns.retry.attempts import HandlerState


__all__ = ["after_first_result", "retry", "wrap"]

_GENERATORS = frozenset({CallKind.GENERATOR, CallKind.ASYNC_GENERATOR})
_NO_GENERATORS = (
    "what it has yielded before it fails cannot be taken back: put the retry around what "
    "consumes it"
)


def wrap(handler: HandlerState, func: Callable[..., Any]) -> Any:
    """`func` with retries; a coroutine function stays one.

    Raises TypeError for a generator function: what it has yielded cannot be taken back.
    """
    kind = kind_of(func)
    if kind in _GENERATORS:
        raise generator_error(func, kind, _NO_GENERATORS)
    make = _coroutine
    if kind is not CallKind.COROUTINE:
        handler.listeners.expect_plain(func)
        if handler.awaits:
            raise handler.refusal(func)
        make = _plain
    return functools.update_wrapper(make(handler, func), func)


# A first attempt that succeeds makes no object and reads no clock. That is why it is written out,
# before `retry`, in each of these and in `RetryHandler.execute`.


def _plain(handler: HandlerState, func: Callable[..., Any]) -> Callable[..., Any]:
    start = handler.start if handler.needs_start else None
    usual: type | None = None  # of its results; one that can be returned as it is

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal usual
        started = None if start is None else start()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except Exception as error:
            call = CallState(handler, started)
            if not call.raised(error):
                raise
        else:
            if type(result) is usual:
                return result
            if type(result) in FINISHED and handler.config.retry_on_result is None:
                usual = type(result)
                return result
            if is_awaitable(result):
                handler.makers.note(func, result)
            return after_first_result(handler, started, func, args, kwargs, result=result)
        return retry(call, func, args, kwargs)

    return wrapper


def _coroutine(handler: HandlerState, func: Callable[..., Any]) -> Callable[..., Any]:
    start = handler.start if handler.needs_start else None
    unwanted = handler.config.retry_on_result

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = None if start is None else start()
        try:
            result = await (func(*args, **kwargs) if kwargs else func(*args))
        except Exception as error:
            call = CallState(handler, started)
            if not await call.raised_async(error):
                raise
        else:
            if unwanted is None:
                return result
            call = CallState(handler, started)
            if await call.returned_async(result):
                return result
        return await _retry_async(handler, started, func, args, kwargs, call=call)

    return wrapper


def after_first_result(
    handler: HandlerState,
    started: float | None,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    result: Any,
) -> Any:
    """Go on from a first attempt that returned, where that may not be the end of the call."""
    if is_awaitable(result):
        return _retry_async(handler, started, func, args, kwargs, call=None, begun=result)
    if isinstance(result, (GeneratorType, AsyncGeneratorType)):
        kind = kind_of(func, args)
        if kind in _GENERATORS:  # nothing in it has run by now
            raise generator_error(func, kind, _NO_GENERATORS)
    call = CallState(handler, started)
    return result if call.returned(result) else retry(call, func, args, kwargs)


def retry(
    call: CallState, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wait and call `func`, until it succeeds or is not to be retried."""
    begun = call.handler.makers.begin(
        func, functools.partial(_retry_async, call.handler, None, call=call), args, kwargs
    )
    if begun is not None:
        return begun  # which waits without blocking the loop
    while True:
        call.wait()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            if not call.raised(error):
                raise
        else:
            # A plain function that returns an awaitable, as a lambda does.
            if is_awaitable(result):
                return _retry_async(call.handler, None, func, args, kwargs, call=call, begun=result)
            if call.returned(result):
                return result


async def _retry_async(
    handler: HandlerState,
    started: float | None,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    call: CallState | None,
    begun: Awaitable[Any] | None = None,
) -> Any:
    """Do as `retry` does, starting with `begun`, if `func` has returned that already.

    `call` is None until an attempt has failed.
    """
    while True:
        if call is not None:
            await call.wait_async()
        try:
            attempt, begun = func(*args, **kwargs) if begun is None else begun, None
            result = await attempt
        except BaseException as error:
            call = call or CallState(handler, started)
            if not await call.raised_async(error):
                raise
        else:
            if call is None and handler.config.retry_on_result is None:
                return result
            call = call or CallState(handler, started)
            if await call.returned_async(result):
                return result
