"""Runs what is written once for blocking and for awaited code: a generator of steps.

The generator decides and does no I/O: it yields what is to be done, is sent what came of it
or has thrown at it what that raised, and returns the result.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Generator
from typing import Any
from typing import TypeVar


__all__ = ["run", "run_async"]

_Step = TypeVar("_Step")
_R = TypeVar("_R")


def run(steps: Generator[_Step, Any, _R], perform: Callable[[_Step], object]) -> _R:
    """Have each step performed; returns or raises what the generator does."""
    __tracebackhide__ = True
    result, error = None, None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as done:
            returned: _R = done.value
            return returned
        finally:
            error = None  # its traceback leads to this frame: a cycle otherwise
        try:
            result = perform(step)
        except BaseException as raised:  # for the generator, which may expect it
            error = raised


async def run_async(
    steps: Generator[_Step, Any, _R], perform: Callable[[_Step], Awaitable[object]]
) -> _R:
    """As `run`, for steps that are awaited."""
    __tracebackhide__ = True
    result, error = None, None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as done:
            returned: _R = done.value
            return returned
        finally:
            error = None  # as above
        try:
            result = await perform(step)
        except BaseException as raised:  # as above
            error = raised
