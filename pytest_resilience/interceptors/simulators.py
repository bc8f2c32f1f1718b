"""Explicit points: for code that names the operation itself, where no interceptor can see it.

`NetworkSimulator`, `ServiceFailureSimulator` and `DatabaseSimulator` call a function as the
operation that it stands for. They cost a truth test while no experiment runs.
"""

from __future__ import annotations

import errno
import os

from collections.abc import Callable
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import ResolutionFailure
from pytest_resilience.chaos.faults.network import ServiceError
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.waiting import wait


__all__ = [
    "DatabaseSimulator",
    "NetworkSimulator",
    "ServiceFailureSimulator",
    "SimulatorInterceptor",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Replaced, never changed in place: points read it without a lock.
_engines: tuple[Engine, ...] = ()


class SimulatorInterceptor:
    """Lets the points ask an engine while it has experiments. See `chaos.engine.Interceptor`."""

    kinds = frozenset({RESOLVE, CONNECT, RECEIVE, CALL, EXECUTE})

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def install(self) -> None:
        global _engines  # noqa: PLW0603  # a point in the user's code has nobody else to ask
        if self._engine not in _engines:
            _engines = (*_engines, self._engine)

    def refresh(self) -> None:
        """Nothing to do: the points ask the engine itself."""

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
        if _engines:
            name = target if ":" in target else f"{target}:"
            _meet(RESOLVE, target, name, blocking=False)
            _meet(CONNECT, target, name, blocking=False)
            lost = _meet(RECEIVE, target, name)
            if lost is not None:
                func(*args, **kwargs)
                raise _error(lost, target)
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
        if _engines:
            _meet(CALL, service_name, service_name)
        return func(*args, **kwargs)


class DatabaseSimulator:
    """A statement that a database executes."""

    @staticmethod
    def simulate_query(func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` as a statement; `database_slowdown` delays it."""
        __tracebackhide__ = True
        if _engines:
            _meet(EXECUTE, "simulated", "simulated:")
        return func(*args, **kwargs)


def _meet(kind: str, target: str, name: str, *, blocking: bool = True) -> Fault | None:
    """Let happen what happens to an operation; `blocking`: whether a wait may.

    Returns what will happen to its answer.
    """
    __tracebackhide__ = True
    operation = Operation(
        kind=kind,
        target=target,
        names=(name,),
        blocking=blocking,
        tcp=TcpDetails(bodiless=kind == RECEIVE),
    )
    lost = None
    for engine in _engines:
        effect = engine.decide(operation)
        if effect is not None:
            lost = lost or _apply(effect, target)
    return lost


def _apply(effect: Effect, target: str) -> Fault | None:
    __tracebackhide__ = True
    if effect.delay:
        effect.add_delay(wait(effect.clock, effect.delay, effect.left))
    if effect.delay == float("inf") and not effect.transient:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    failure = effect.failure
    if failure is None or failure.answered:
        return failure
    raise _error(failure, target)


def _error(fault: Fault, target: str) -> Exception:
    if isinstance(fault, ServiceError):
        return fault.make(target)
    if isinstance(fault, ResolutionFailure):
        return effects.name_resolution_failure(fault)
    if isinstance(fault, Refusal):
        return ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    if isinstance(fault, (Reset, LostResponse)):
        return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    # An answer with a status has no form without a protocol; it is a failure all the same.
    return ConnectionError(f"{target} failed: {fault}")
