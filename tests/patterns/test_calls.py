from __future__ import annotations

import functools
import inspect
import sys

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from types import MethodType
from typing import Any
from unittest import mock

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import RetryHandler
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import SemaphoreBulkhead
from pytest_resilience.patterns import TimeLimiter
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import kind_of


def plain() -> None: ...


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Plain:
    def __call__(self) -> None: ...

    def method(self) -> None: ...

    async def later(self) -> None: ...

    @staticmethod
    def static() -> Iterator[int]:
        yield 1

    @classmethod
    async def of_class(cls) -> AsyncIterator[int]:
        yield 1


class Coroutine:
    async def __call__(self) -> None: ...


class Items:
    def __call__(self) -> Iterator[int]:
        yield 1


class PartialCall:
    __call__ = functools.partial(coroutine)


FUNCTIONS: list[Callable[..., Any]] = [
    plain, coroutine, generator, async_generator, lambda: None, len, int, dict, Plain, Coroutine,
    Plain(), Coroutine(), Items(), PartialCall(), Plain().method, Plain().later, Plain.static,
    Plain.of_class, [].append, str.upper, "a".upper, MethodType(coroutine, 1),
    MethodType(functools.partial(generator), 1),
    mock.Mock(), mock.MagicMock(), mock.AsyncMock(), functools.lru_cache(coroutine),
    functools.cache(plain), functools.partial(Plain().later),
]  # fmt: skip
FUNCTIONS += [functools.partial(each) for each in FUNCTIONS]
FUNCTIONS += [functools.wraps(coroutine)(lambda: None), functools.wraps(plain)(coroutine)]


def as_inspect_sees_it(func: Any) -> CallKind:
    """Slowly: what `kind_of` must agree with."""
    while isinstance(func, functools.partial):
        func = func.func
    for candidate in (func, getattr(type(func), "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(candidate):
            return CallKind.COROUTINE
        if inspect.isasyncgenfunction(candidate):
            return CallKind.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(candidate):
            return CallKind.GENERATOR
    return CallKind.PLAIN


@pytest.mark.parametrize("func", FUNCTIONS, ids=lambda each: type(each).__name__)
def test_the_kind_is_the_one_that_inspect_sees(func: Any) -> None:
    kind = kind_of(func)
    assert kind is as_inspect_sees_it(func)


def test_each_kind_is_among_them() -> None:
    assert {kind_of(func) for func in FUNCTIONS} == set(CallKind)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="functions cannot be marked before 3.12")
def test_functions_that_are_marked_as_coroutine_functions() -> None:
    marked = Plain()
    for func in (lambda: coroutine(), Plain().method, marked):  # noqa: PLW0108  # a new one
        assert kind_of(func) is CallKind.PLAIN
        inspect.markcoroutinefunction(func)  # type: ignore[attr-defined,unused-ignore]
        assert kind_of(func) is CallKind.COROUTINE


CALLERS: list[Callable[..., Any]] = [
    CircuitBreaker().call, RetryHandler().execute, SemaphoreBulkhead().execute,
    RateLimitBulkhead().execute, TimeLimiter(1).execute, Pipeline().call,
]  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS, ids=lambda each: each.__qualname__)
@pytest.mark.parametrize("func", [plain, coroutine, generator, async_generator])
def test_what_calls_first_argument_argument_is_of_that_ones_kind(caller: Any, func: Any) -> None:
    assert kind_of(caller, (func, 1)) is kind_of(func)
    assert kind_of(functools.partial(caller, func), (1,)) is kind_of(func)
    assert kind_of(caller, (*CALLERS, func)) is kind_of(func)
    assert innermost(caller, (*CALLERS, func, 1)) is func
    assert kind_of(caller) is CallKind.PLAIN
