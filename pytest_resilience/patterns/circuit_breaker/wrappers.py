"""Functions of every kind, wrapped in a circuit breaker."""

from __future__ import annotations

import functools

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any
from typing import Self

from pytest_resilience.locks import OfThisProcess
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import async_generator_around
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import is_future
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.callables import when_done
from pytest_resilience.patterns.circuit_breaker.circuit import Circuit
from pytest_resilience.patterns.circuit_breaker.states import StatePermit


__all__ = ["Isolation", "Permit", "go_on", "run_coroutine", "start", "wrap"]

_PLAIN_KINDS = frozenset({CallKind.PLAIN, CallKind.GENERATOR})


class Permit(OfThisProcess):
    """A call that was let through and has not ended; how it ended is said once."""

    __slots__ = ("_circuit", "_permit")

    def __init__(self, circuit: Circuit, permit: StatePermit) -> None:
        self._circuit = circuit
        self._permit: StatePermit | None = permit

    def returned(self, result: Any) -> None:
        """It returned."""
        circuit, permit = self._circuit, self._end()
        if circuit.settled is not permit:
            circuit.record_result(permit, result)

    def raised(self, error: BaseException) -> None:
        """It raised."""
        self._circuit.record_error(self._end(), error)

    def succeeded(self) -> None:
        """It succeeded, whatever it returned."""
        self._circuit.record_success(self._end())

    def failed(self) -> None:
        """It failed, whatever it returned or raised."""
        self._circuit.record_failure(self._end())

    def release(self) -> None:
        """It ended in a way that says nothing."""
        self._circuit.release_permit(self._end())

    async def notify_async(self) -> None:
        """Await whoever has yet to know how it ended: for permits of `acquire_async`."""
        await self._circuit.notify_async()

    def _end(self) -> StatePermit:
        permit, self._permit = self._permit, None
        if permit is None:
            raise RuntimeError("how this call ended was said before; a permit is for one call")
        return permit


class Isolation(OfThisProcess):
    """A breaker rejects every call until this ends, by `end` or as a `with` block."""

    __slots__ = ("_circuit", "_isolated")

    def __init__(self, circuit: Circuit) -> None:
        self._circuit: Circuit | None = circuit
        self._isolated = circuit.isolate()

    def end(self) -> None:
        """Have the breaker be as before. Harmless when done again."""
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            circuit.rejoin(self._isolated)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.end()


def wrap(circuit: Circuit, func: Callable[..., Any]) -> Any:
    """`func` behind `circuit`, of the same kind as before."""
    kind = kind_of(func)
    if kind in _PLAIN_KINDS:
        circuit.journal.listeners.expect_plain(func)
        circuit.journal.call_listeners.expect_plain(func)
    return functools.update_wrapper(_MAKERS[kind](circuit, func), func)


def start(
    circuit: Circuit,
    kind: CallKind,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call a generator function of either kind."""
    return _MAKERS[kind](circuit, func)(*args, **kwargs)


# As long as the breaker is closed and nothing has failed, each wrapper runs three lines around
# its function and makes no object: to share them would double what a call costs.


async def run_coroutine(
    circuit: Circuit,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call and await a coroutine function."""
    permit = circuit.fast_path or (
        await circuit.acquire_async() if circuit.awaits else circuit.acquire_permit()
    )
    try:
        result = await (func(*args, **kwargs) if kwargs else func(*args))
    except BaseException as error:
        circuit.record_error(permit, error)
        if circuit.awaits:
            await circuit.notify_async(error)
        raise
    if circuit.settled is not permit:
        circuit.record_result(permit, result)
        if circuit.awaits:
            await circuit.notify_async()
    return result


def go_on(circuit: Circuit, permit: StatePermit, awaitable: Any) -> Any:
    """What the caller of a plain function gets that has returned something to be awaited."""
    if not is_future(awaitable):
        return _await_begun(circuit, permit, awaitable)
    when_done(
        awaitable,
        functools.partial(circuit.record_result, permit),
        functools.partial(circuit.record_error, permit),
    )
    return awaitable


async def _await_begun(circuit: Circuit, permit: StatePermit, awaitable: Awaitable[Any]) -> Any:
    try:
        result = await awaitable
    except BaseException as error:
        circuit.record_error(permit, error)
        raise
    if circuit.settled is not permit:
        circuit.record_result(permit, result)
    return result


def _plain(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    usual: type | None = None  # of its results; one that is no awaitable

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal usual
        permit = circuit.fast_path
        if permit is None:
            permit = circuit.acquire_permit()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            circuit.record_error(permit, error)
            raise
        if type(result) is not usual:
            if is_awaitable(result):
                return go_on(circuit, permit, result)
            usual = type(result)
        if circuit.settled is not permit:
            circuit.record_result(permit, result)
        return result

    return wrapper


def _coroutine(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        permit = circuit.fast_path or (
            await circuit.acquire_async() if circuit.awaits else circuit.acquire_permit()
        )
        try:
            result = await (func(*args, **kwargs) if kwargs else func(*args))
        except BaseException as error:
            circuit.record_error(permit, error)
            if circuit.awaits:
                await circuit.notify_async(error)
            raise
        if circuit.settled is not permit:
            circuit.record_result(permit, result)
            if circuit.awaits:
                await circuit.notify_async()
        return result

    return wrapper


def _generator(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        permit = circuit.fast_path or circuit.acquire_permit()
        try:
            result = yield from func(*args, **kwargs)
        except BaseException as error:  # GeneratorExit too: whoever iterates has had enough
            circuit.record_error(permit, error)
            raise
        circuit.record_result(permit, result)
        return result

    return wrapper


def _async_generator(circuit: Circuit, func: Callable[..., Any]) -> Callable[..., Any]:
    async def begin(_: object, __: object) -> StatePermit:
        return circuit.fast_path or (
            await circuit.acquire_async() if circuit.awaits else circuit.acquire_permit()
        )

    async def ended(permit: StatePermit) -> None:
        circuit.record_success(permit)
        if circuit.awaits:
            await circuit.notify_async()

    async def raised(permit: StatePermit, error: BaseException) -> None:
        circuit.record_error(permit, error)
        if circuit.awaits:
            await circuit.notify_async(error)

    return async_generator_around(func, begin, ended, raised)


_MAKERS: dict[CallKind, Callable[[Circuit, Callable[..., Any]], Callable[..., Any]]] = {
    CallKind.PLAIN: _plain,
    CallKind.COROUTINE: _coroutine,
    CallKind.GENERATOR: _generator,
    CallKind.ASYNC_GENERATOR: _async_generator,
}
