"""What is called, and the ways in which anything is called: as functions of one number."""

from __future__ import annotations

import functools

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


ITEMS = 20  # of a generator

Func = Callable[[int], Any]
AsyncFunc = Callable[[int], Awaitable[Any]]


def work(number: int) -> int:
    return number


async def awork(number: int) -> int:
    return number


def items(number: int) -> Iterator[int]:
    yield from range(number, ITEMS)


async def aitems(number: int) -> AsyncIterator[int]:
    for each in range(number, ITEMS):
        yield each


def plain(func: Func) -> Func:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return func(*args, **kwargs)
        except LookupError:
            return 0

    return wrapper


def aplain(func: AsyncFunc) -> AsyncFunc:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await func(*args, **kwargs)
        except LookupError:
            return 0

    return wrapper


PLAIN, APLAIN = plain(work), aplain(awork)


@dataclass(frozen=True, slots=True)
class Form:
    """A way in: a function of one argument, what it is held against, and how often it may cost
    that at most.
    """

    call: Any
    target: float | None = None
    against: Any = PLAIN


def aform(call: AsyncFunc, target: float | None = None, against: AsyncFunc = APLAIN) -> Form:
    return Form(call, target, against)


def block(guard: Any) -> Func:
    def call(number: int) -> int:
        with guard:
            return work(number)

    return call


def ablock(guard: Any) -> AsyncFunc:
    async def call(number: int) -> int:
        async with guard:
            return await awork(number)

    return call


def attempts(handler: Any) -> Func:
    def call(number: int) -> int:
        for attempt in handler:
            with attempt:
                work(number)
        return number

    return call


def aattempts(handler: Any) -> AsyncFunc:
    async def call(number: int) -> int:
        async for attempt in handler:
            with attempt:
                await awork(number)
        return number

    return call


def aattempts_awaited(handler: Any) -> AsyncFunc:
    async def call(number: int) -> int:
        async for attempt in handler:
            async with attempt:
                await awork(number)
        return number

    return call


def walk(func: Callable[[int], Iterator[int]]) -> Func:
    def call(_number: int) -> int:
        return sum(func(0))

    return call


def awalk(func: Callable[[int], AsyncIterator[int]]) -> AsyncFunc:
    async def call(_number: int) -> int:
        return sum([each async for each in func(0)])

    return call
