"""Several patterns around one function, in an order that can be read and tested."""

from __future__ import annotations

import operator
import warnings

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.patterns.bulkhead.rate_limit import RateLimitBulkhead
from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead
from pytest_resilience.patterns.bulkhead.thread_pool import ThreadPoolBulkhead
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.hedging import Hedging
from pytest_resilience.patterns.retry.handler import RetryHandler
from pytest_resilience.patterns.timeout import TimeLimiter


__all__ = ["Pipeline", "PipelineOrderWarning", "Step"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE

# Outer pattern, inner pattern, and why that order goes wrong.
_WRONG_ORDER: tuple[tuple[type, type, str], ...] = (
    (
        CircuitBreaker,
        RetryHandler,
        "the breaker sees one failure where the retry has seen several; put it inside the retry",
    ),
    (
        RateLimitBulkhead,
        RetryHandler,
        "the retry's calls after the first are not counted; put the limit inside the retry",
    ),
)


# Patterns whose wrappers keep nothing of the function, so one wrapper serves all functions.
_OURS = frozenset(
    {
        CircuitBreaker, Hedging, RateLimitBulkhead, RetryHandler, SemaphoreBulkhead,
        ThreadPoolBulkhead, TimeLimiter,
    }
)  # fmt: skip


class PipelineOrderWarning(UserWarning):
    """Two patterns are in an order that is known to go wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One pattern of a pipeline, for tests.

    Attributes:
        kind: its class, by name.
        name: its own name, "" if it has none.
        config: its configuration, None if it has none.
    """

    kind: str
    name: str
    config: Any


class Pipeline(Decorator):
    """Patterns around a function, the first one outermost.

    Any decorator can be one of them: each wraps what the later ones made of the function, so
    sync and async functions work alike. Warns with `PipelineOrderWarning` where a breaker or a
    rate limit is outside a retry.

    Examples:
        >>> from pytest_resilience.patterns import CircuitBreaker, RetryHandler
        >>> pipeline = Pipeline(RetryHandler(), CircuitBreaker(name="prices"))
        >>> [step.kind for step in pipeline.describe()]
        ['RetryHandler', 'CircuitBreaker']
        >>> pipeline.call(len, "abc")
        3
    """

    def __init__(self, *patterns: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Raises TypeError for what cannot be called as a decorator."""
        for pattern in patterns:
            if not callable(pattern):
                raise TypeError(
                    f"{pattern!r} cannot be put around a function; give a pattern of this package, "
                    "or any decorator"
                )
            if isinstance(pattern, type) and issubclass(pattern, Decorator):
                name = pattern.__name__
                raise TypeError(f"{name} is a class; give it one of its patterns, as {name}()")
        self.patterns = patterns
        # The function that was called last, if it keeps nothing else alive, and how: to find out
        # what kind a function is of costs as much as a pattern.
        self._last: tuple[object, Callable[..., Any]] = (object(), _call)
        # Around two functions that call their argument: wrapped once, and not at each `call`.
        self._call: Callable[..., Any] | None = None
        self._await: Callable[..., Any] | None = None
        for number, outer in enumerate(patterns):
            for inner in patterns[number + 1 :]:
                _warn(outer, inner)

    def _decorate(self, func: Any) -> Any:
        for pattern in reversed(self.patterns):
            func = pattern(func)
        return func

    if TYPE_CHECKING:

        def call(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            """Call `func` through all patterns; await the result of a coroutine function."""

    else:

        @calls_first_argument
        def call(
            self, /, *args, **kwargs
        ):  # handed on as they are: to put `func` before them costs
            """Call a function through all patterns; await the result of a coroutine function."""
            try:
                func = args[0]
            except IndexError:
                raise TypeError("call() needs a function, and its arguments") from None
            last, ready = self._last
            if func is not last:
                ready = self._ready(args)
            return ready(*args, **kwargs) if kwargs else ready(*args)

    def _ready(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        """What calls `args[0]` with the others through all patterns."""
        func, kind = args[0], kind_of(args[0], args[1:])
        ready = self._call if kind is _PLAIN else self._await if kind is _COROUTINE else None
        ready = ready or self._prepare(kind)
        if ready is None:  # the wrapper of somebody else's decorator may depend on the function
            return partial(_call_wrapped, self(func))
        if type(func) is FunctionType and func.__closure__ is None:
            self._last = func, ready
        return ready

    def _prepare(self, kind: CallKind) -> Callable[..., Any] | None:
        types = set(map(type, self.patterns))
        if types <= _OURS and kind is _PLAIN:
            self._call = self._decorate(_call)
            return self._call
        # A pool refuses a coroutine function, by its own name.
        if types <= _OURS - {ThreadPoolBulkhead} and kind is _COROUTINE:
            self._await = self._decorate(_await)
            return self._await
        return None

    def describe(self) -> tuple[Step, ...]:
        """Its patterns, outermost first, for a test to compare."""
        return tuple(
            Step(
                kind=type(pattern).__name__,
                name=str(getattr(pattern, "name", "")),
                config=getattr(pattern, "config", None),
            )
            for pattern in self.patterns
        )


def _warn(outer: object, inner: object) -> None:
    for outside, inside, why in _WRONG_ORDER:
        if isinstance(outer, outside) and isinstance(inner, inside):
            message = f"{outside.__name__} outside {inside.__name__}: {why}"
            warnings.warn(message, PipelineOrderWarning, stacklevel=3)


def _call_wrapped(wrapped: Callable[..., Any], _: object, *args: Any, **kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


# No functions of ours, each of which would cost as much as one of the patterns.
_call: Callable[..., Any] = calls_first_argument(partial(operator.call))
_await: Callable[..., Any] = calls_first_argument(partial(operator.call), _COROUTINE)
