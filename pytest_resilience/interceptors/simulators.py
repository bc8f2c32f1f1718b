"""Simulators: for code that names an operation itself, where no interceptor can see it.

`NetworkSimulator`, `ServiceFailureSimulator` and `DatabaseSimulator` call a function as the
operation that it stands for. They cost a truth test while no experiment runs.
"""

from __future__ import annotations

import errno
import functools
import os

from collections.abc import Callable
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.waiting import wait


__all__ = [
    "DatabaseSimulator",
    "NetworkSimulator",
    "ServiceFailureSimulator",
    "SimulatorInterceptor",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Replaced, never changed in place: simulators read it without a lock.
_engines: tuple[Engine, ...] = ()


class SimulatorInterceptor:
    """Has simulators ask an engine while it has experiments. See `chaos.engine.Interceptor`."""

    kinds = frozenset({RESOLVE, CONNECT, RECEIVE, CALL, EXECUTE})

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def install(self) -> None:
        global _engines  # noqa: PLW0603  # they are static methods, which have nobody else to ask
        if self._engine not in _engines:
            _engines = (*_engines, self._engine)

    def refresh(self) -> None:
        """Nothing to do: the simulators ask the engine itself."""

    def remove(self) -> None:
        global _engines  # noqa: PLW0603
        _engines = tuple(each for each in _engines if each is not self._engine)


class NetworkSimulator:
    """A request over the network, to a peer that may exist only in name."""

    @staticmethod
    def simulate_request(func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` as a request to `simulated`, one round trip on a new connection.

        Raises what a client would: ConnectionRefusedError, ConnectionResetError, TimeoutError
        or `socket.gaierror`. For a peer with a name, see `request_to`.
        """
        __tracebackhide__ = True
        return NetworkSimulator.request_to("simulated", func, *args, **kwargs)

    @staticmethod
    def request_to(target: str, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The same to a `host` or `host:port` that experiments can be aimed at."""
        __tracebackhide__ = True
        for engine in _engines:
            name = target if ":" in target else f"{target}:"
            for kind in (RESOLVE, CONNECT):
                _call(engine, Operation(kind=kind, target=target, names=(name,), blocking=False))
            _receive(engine, target, name, functools.partial(func, *args, **kwargs))
        return func(*args, **kwargs)


class ServiceFailureSimulator:
    """A call of a service."""

    @staticmethod
    def simulate_service_call(
        service_name: str, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Call `func` as the service of that name.

        Raises `ServiceFailureError`, or the exception that the experiment asks for.
        """
        __tracebackhide__ = True
        for engine in _engines:
            _call(engine, Operation(kind=CALL, target=service_name, names=(service_name,)))
        return func(*args, **kwargs)


class DatabaseSimulator:
    """A statement that a database executes."""

    @staticmethod
    def simulate_query(func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` as a statement; `database_slowdown` delays it."""
        __tracebackhide__ = True
        for engine in _engines:
            _call(engine, Operation(kind=EXECUTE, target="simulated", names=("simulated:",)))
        return func(*args, **kwargs)


def _call(engine: Engine, operation: Operation) -> None:
    """Wait or raise, if something happens to an operation."""
    __tracebackhide__ = True
    effect = engine.decide(operation)
    if effect is not None:
        _wait(effect)
        error = effect.error(operation.target)
        if error is not None:
            raise error


def _receive(engine: Engine, target: str, name: str, func: Callable[[], object]) -> None:
    """Wait or raise, if something happens to the response that `func` gets."""
    __tracebackhide__ = True
    # No bytes of it are seen, so none can be changed.
    operation = Operation(kind=RECEIVE, target=target, names=(name,), tcp=TcpDetails(form=BODILESS))
    effect = engine.decide(operation)
    if effect is None:
        return
    stream = ResponseStream(effect)
    lost = isinstance(effect.failure, LostResponse)
    if lost:
        func()
    step = stream.next(0, engine.clock.monotonic())
    if isinstance(step, WaitUntil):
        _wait(effect)
        step = stream.next(0, step.due)
    if lost:
        stream.take(b".")
        step = stream.next(0, engine.clock.monotonic())
    if isinstance(step, ResetConnection):
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    if isinstance(step, (ReadReplacement, CloseConnection)):
        # A response has no form without a protocol; it is a failure all the same.
        raise ConnectionError(f"{target} failed: {effect.failure}")


def _wait(effect: Effect) -> None:
    __tracebackhide__ = True
    if effect.delay:
        effect.add_delay(wait(effect.clock, effect.delay, effect.left))
    if effect.delay == float("inf") and not effect.transient:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
