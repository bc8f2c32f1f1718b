"""Functions of every kind, put behind a circuit."""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.patterns.breaker_config import Outcome
from pytest_resilience.patterns.calls import CallKind
from pytest_resilience.patterns.calls import kind_of
from pytest_resilience.patterns.circuit import Circuit


__all__ = ["Permit", "protect"]


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
    return _WRAPPERS[kind_of(func)](circuit, func)


def _plain(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    failed, ended, success = circuit.failed, circuit.ended, Outcome.SUCCESS

    @functools.wraps(func)
    def protected(*args: Any, **kwargs: Any) -> Any:
        generation = circuit.lane
        if generation is None:
            return _call(circuit, func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            failed(generation, error)
            raise
        if circuit.streak:
            ended(generation, success)
        return result

    return protected


def _call(
    circuit: Circuit, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    permit = Permit(circuit)
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        permit.raised(error)
        raise
    permit.returned(result)
    return result


def _coroutine(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    failed, ended, success = circuit.failed, circuit.ended, Outcome.SUCCESS

    @functools.wraps(func)
    async def protected(*args: Any, **kwargs: Any) -> Any:
        generation = circuit.lane
        permit = Permit(circuit) if generation is None else None
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            if permit is not None:
                permit.raised(error)
            elif generation is not None:
                failed(generation, error)
            raise
        if permit is not None:
            permit.returned(result)
        elif circuit.streak and generation is not None:
            ended(generation, success)
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


_WRAPPERS: dict[CallKind, Callable[[Circuit, Callable[..., Any]], Callable[..., Any]]] = {
    CallKind.PLAIN: _plain,
    CallKind.COROUTINE: _coroutine,
    CallKind.GENERATOR: _generator,
    CallKind.ASYNC_GENERATOR: _async_generator,
}
