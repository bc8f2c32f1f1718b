"""An assertion about recovery: a call that fails now succeeds in time."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any
from typing import TypeVar
from typing import overload

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.events import describe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of


__all__ = ["assert_recovers"]

_R = TypeVar("_R")
_SHOWN = 20  # failures in a message


@overload
def assert_recovers(
    call: Callable[[], Awaitable[_R]], *, within: float, every: float = ..., clock: Clock = ...
) -> Awaitable[_R]: ...


@overload
def assert_recovers(
    call: Callable[[], _R], *, within: float, every: float = ..., clock: Clock = ...
) -> _R: ...


def assert_recovers(
    call: Callable[[], Any],
    *,
    within: float,
    every: float = 0.1,
    clock: Clock = MACHINE_CLOCK,
) -> Any:
    """Raise AssertionError unless `call` succeeds in time, tried again and again.

    Args:
        call: what is expected to work again, and may raise any `Exception` until then; for a
            coroutine function, await the assertion. One that never returns is waited for.
        within: seconds from now by which it has to have returned.
        every: seconds between the end of one call and the next.
        clock: what measures and waits; a `ManualClock` is moved by it.

    Returns:
        What `call` returned in the end.
    """
    __tracebackhide__ = True
    attempts = _Attempts(call, within, every, clock)
    if kind_of(call) is CallKind.COROUTINE:
        return attempts.run_async()
    return attempts.run()


class _Attempts:
    """The calls of one assertion."""

    def __init__(self, call: Callable[[], Any], within: float, every: float, clock: Clock) -> None:
        self._call = call
        self._within = validation.number("within", within, above_low=True)
        self._every = validation.number("every", every, above_low=True)
        self._clock = clock
        self._began = clock.monotonic()
        self._failures: list[tuple[float, Exception]] = []

    def run(self) -> Any:
        __tracebackhide__ = True
        while True:
            try:
                result = self._call()
            except Exception as error:
                self._failed(error)
            else:
                return self._succeeded(result)
            self._clock.sleep(self._every)

    async def run_async(self) -> Any:
        __tracebackhide__ = True
        while True:
            try:
                result = await self._call()
            except Exception as error:
                self._failed(error)
            else:
                return self._succeeded(result)
            await self._clock.asleep(self._every)

    def _failed(self, error: Exception) -> None:
        """Record a failure; raise if there is no time for another call."""
        __tracebackhide__ = True
        elapsed = self._clock.monotonic() - self._began
        self._failures.append((elapsed, error))
        if elapsed + self._every > self._within:
            times = len(self._failures)
            count = "once" if times == 1 else f"{times} times"
            raise AssertionError(self._message(f"failed {count}")) from error

    def _succeeded(self, result: Any) -> Any:
        __tracebackhide__ = True
        elapsed = self._clock.monotonic() - self._began
        if elapsed > self._within:  # it had begun in time
            raise AssertionError(self._message(f"took {elapsed:.3g} s"))
        return result

    def _message(self, what: str) -> str:
        name = getattr(self._call, "__qualname__", repr(self._call))
        hidden = len(self._failures) - _SHOWN
        lines = [f"({hidden} failures before)"] if hidden > 0 else []
        lines += [f"+{at:.3f}s {describe(error)}" for at, error in self._failures[-_SHOWN:]]
        timeline = "".join(f"\n  {line}" for line in lines)
        return f"expected {name} to recover within {self._within:g} s, but it {what}{timeline}"
