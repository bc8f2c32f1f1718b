"""Functions of every kind, put behind a circuit."""

from __future__ import annotations

import functools

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.circuit_breaker.state_machine import Circuit


__all__ = ["Permit", "begin", "protect"]


class Permit:
    """A call that was let through and has not ended; how it ended is said once."""

    __slots__ = ("_circuit", "_ticket")

    def __init__(self, circuit: Circuit) -> None:
        """Raises CircuitBreakerError if the call is not let through."""
        self._circuit: Circuit | None = circuit
        self._ticket = circuit.lane or circuit.admit()

    def returned(self, result: Any) -> None:
        """It returned."""
        self._end().returned(self._ticket, result)

    def raised(self, error: BaseException) -> None:
        """It raised."""
        self._end().failed(self._ticket, error)

    def release(self) -> None:
        """It ended in a way that says nothing."""
        self._end().released(self._ticket)

    def _end(self) -> Circuit:
        circuit, self._circuit = self._circuit, None
        if circuit is None:
            raise RuntimeError("how this call ended was said before; a permit is for one call")
        return circuit


def protect(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    """`func` behind `circuit`, of the same kind as before."""
    return functools.update_wrapper(_FORMS[kind_of(func)](circuit, func), func)


def begin(
    circuit: Circuit,
    kind: CallKind,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """What a call of a `func` that is not plain returns: a coroutine, or a generator."""
    if kind is CallKind.COROUTINE:
        return _await(circuit, func, args, kwargs)
    return _FORMS[kind](circuit, func)(*args, **kwargs)


async def _await(
    circuit: Circuit,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    ticket = circuit.lane or circuit.admit()
    try:
        result = await func(*args, **kwargs)
    except BaseException as error:
        circuit.failed(ticket, error)
        raise
    if circuit.learns or circuit.lane is not ticket:
        circuit.returned(ticket, result)
    return result


# The decorators make no object per call and, as long as the circuit is closed and nothing has
# failed, run three lines around the function.


def _plain(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    admit = circuit.admit

    def protected(*args: Any, **kwargs: Any) -> Any:
        ticket = circuit.lane or admit()
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            circuit.failed(ticket, error)
            raise
        if circuit.learns or circuit.lane is not ticket:
            circuit.returned(ticket, result)
        return result

    return protected


def _coroutine(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    admit = circuit.admit

    async def protected(*args: Any, **kwargs: Any) -> Any:
        ticket = circuit.lane or admit()
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            circuit.failed(ticket, error)
            raise
        if circuit.learns or circuit.lane is not ticket:
            circuit.returned(ticket, result)
        return result

    return protected


def _generator(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    def protected(*args: Any, **kwargs: Any) -> Any:
        ticket = circuit.lane or circuit.admit()
        try:
            result = yield from func(*args, **kwargs)
        except BaseException as error:  # GeneratorExit: whoever iterated has had enough
            circuit.failed(ticket, error)
            raise
        circuit.returned(ticket, result)
        return result

    return protected


def _async_generator(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    async def protected(*args: Any, **kwargs: Any) -> Any:
        ticket = circuit.lane or circuit.admit()
        try:
            inner = func(*args, **kwargs)
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
            circuit.succeeded(ticket)
        except BaseException as error:
            circuit.failed(ticket, error)
            raise

    return protected


_FORMS: dict[CallKind, Callable[[Circuit, Callable[..., Any]], Callable[..., Any]]] = {
    CallKind.PLAIN: _plain,
    CallKind.COROUTINE: _coroutine,
    CallKind.GENERATOR: _generator,
    CallKind.ASYNC_GENERATOR: _async_generator,
}
