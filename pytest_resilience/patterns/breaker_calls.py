"""Functions of every kind, put behind a circuit."""

from __future__ import annotations

import functools
import math

from collections.abc import Callable
from typing import Any

from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.patterns.breaker_config import Outcome
from pytest_resilience.patterns.breaker_events import CircuitState
from pytest_resilience.patterns.calls import CallKind
from pytest_resilience.patterns.calls import kind_of
from pytest_resilience.patterns.circuit import Circuit


__all__ = ["Permit", "protect"]

_NEVER = math.inf
_OPEN = CircuitState.OPEN


class Permit:
    """A call that was let through and has not ended; how it ended is said once."""

    __slots__ = ("_circuit", "_generation", "_started")

    def __init__(self, circuit: Circuit) -> None:
        """Raises CircuitBreakerError if the call is not let through."""
        self._circuit: Circuit | None = circuit
        self._generation = circuit.admit()
        timed = circuit.config.slow_call_duration is not None
        self._started = circuit.clock.monotonic() if timed else 0.0

    def returned(self, result: Any) -> None:
        """It returned."""
        circuit = self._end()
        circuit.ended(
            self._generation, circuit.config.judge_result(result), slow=self._slow(circuit)
        )

    def raised(self, error: BaseException) -> None:
        """It raised."""
        circuit = self._end()
        circuit.failed(self._generation, error, slow=self._slow(circuit))

    def release(self) -> None:
        """It ended in a way that says nothing."""
        self._end().ended(self._generation, Outcome.IGNORED)

    def _end(self) -> Circuit:
        circuit, self._circuit = self._circuit, None
        if circuit is None:
            raise RuntimeError("how this call ended was said before; a permit is for one call")
        return circuit

    def _slow(self, circuit: Circuit) -> bool:
        limit = circuit.config.slow_call_duration
        return limit is not None and circuit.clock.monotonic() - self._started > limit


def protect(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    """`func` behind `circuit`, of the same kind as before."""
    kind = kind_of(func)
    if kind is CallKind.PLAIN:
        return _quick(circuit, func) if circuit.quick else _plain(circuit, func)
    if kind is CallKind.COROUTINE:
        return _quick_coroutine(circuit, func) if circuit.quick else _coroutine(circuit, func)
    return (
        _generator(circuit, func) if kind is CallKind.GENERATOR else _async_generator(circuit, func)
    )


# The quick ones make no object per call and, as long as the circuit is closed and nothing
# has failed, run three lines around the function; open, they refuse by themselves what
# `admit` would. They are written out twice because one more call would double what they cost.


def _quick(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    admit, failed, succeeded = circuit.admit, circuit.failed, circuit.succeeded
    monotonic, listeners, name = circuit.clock.monotonic, circuit.listeners, circuit.name

    @functools.wraps(func)
    def protected(*args: Any, **kwargs: Any) -> Any:
        generation = circuit.lane
        if generation is None:
            left = circuit.reopens_at - monotonic()
            if left > 0 and circuit.state is _OPEN and not listeners.listened:
                raise CircuitBreakerError(name, "OPEN", left if left < _NEVER else None)
            generation = admit()
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            failed(generation, error)
            raise
        if circuit.learns or circuit.lane != generation:
            succeeded(generation)
        return result

    return protected


def _quick_coroutine(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    admit, failed, succeeded = circuit.admit, circuit.failed, circuit.succeeded
    monotonic, listeners, name = circuit.clock.monotonic, circuit.listeners, circuit.name

    @functools.wraps(func)
    async def protected(*args: Any, **kwargs: Any) -> Any:
        generation = circuit.lane
        if generation is None:
            left = circuit.reopens_at - monotonic()
            if left > 0 and circuit.state is _OPEN and not listeners.listened:
                raise CircuitBreakerError(name, "OPEN", left if left < _NEVER else None)
            generation = admit()
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            failed(generation, error)
            raise
        if circuit.learns or circuit.lane != generation:
            succeeded(generation)
        return result

    return protected


def _plain(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def protected(*args: Any, **kwargs: Any) -> Any:
        permit = Permit(circuit)
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            permit.raised(error)
            raise
        permit.returned(result)
        return result

    return protected


def _coroutine(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def protected(*args: Any, **kwargs: Any) -> Any:
        permit = Permit(circuit)
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            permit.raised(error)
            raise
        permit.returned(result)
        return result

    return protected


def _generator(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def protected(*args: Any, **kwargs: Any) -> Any:
        permit = Permit(circuit)
        try:
            result = yield from func(*args, **kwargs)
        except BaseException as error:  # GeneratorExit: whoever iterated has had enough
            permit.raised(error)
            raise
        permit.returned(result)
        return result

    return protected


def _async_generator(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def protected(*args: Any, **kwargs: Any) -> Any:
        permit = Permit(circuit)
        inner = func(*args, **kwargs)
        try:
            step = inner.asend(None)
            while True:
                item = await step
                try:
                    sent = yield item
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as error:
                    step = inner.athrow(error)
                else:
                    step = inner.asend(sent)
        except StopAsyncIteration:
            permit.returned(None)
        except BaseException as error:
            permit.raised(error)
            raise

    return protected
