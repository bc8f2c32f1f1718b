"""Services and simulators: operations that the code under test names itself.

A service is named with callables that stand for it. A callable is replaced where its name says it
is. Code that has taken it from there under a name of its own (`from shop.clients import check`) is
reached by naming that place.

Simulators are for code whose operation no interceptor can see. `NetworkSimulator`,
`ServiceFailureSimulator` and `DatabaseSimulator` call a function as the operation that it stands
for. They cost a truth test while no experiment runs.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import pkgutil

from collections.abc import Callable
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.network import os_error
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
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import describe
from pytest_resilience.interceptors.waiting import hold
from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import Patches


__all__ = [
    "DatabaseSimulator",
    "NetworkSimulator",
    "ServiceFailureSimulator",
    "ServiceInterceptor",
    "SimulatorInterceptor",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
# Replaced, never changed in place: simulators read it without a lock.
_engines: tuple[Engine, ...] = ()


class ServiceInterceptor:
    """Intercepts calls of services that experiments name. See `chaos.engine.Interceptor`."""

    kinds = frozenset({CALL})

    def __init__(self, engine: Engine, *, imports: bool = True) -> None:
        """`imports`: whether to import the modules that have callables, or to wait until they are.

        In a child that begins they may not be found yet, and may not be wanted.
        """
        self._engine = engine
        self._imports = imports
        self._patches = Patches()
        self._replaced: set[str] = set()
        self._hooks: list[ImportHook] = []

    @classmethod
    def of_child(cls, engine: Engine) -> ServiceInterceptor:
        """One that imports nothing."""
        return cls(engine, imports=False)

    def install(self) -> None:
        """Replace what is not replaced yet. Raises ConfigurationError for what is not there."""
        for active_experiment in self._engine.active:
            for service in active_experiment.experiment.services:
                self._replace_all(service)
        recorder = self._engine.recorder
        if recorder is not None:
            for service in recorder.services:
                try:
                    self._replace_all(service)
                except ConfigurationError:  # an experiment that needs it will raise that
                    recorder.assume_called(service.name)

    def refresh(self) -> None:
        """Nothing to do: `install` is called at every change."""

    def remove(self) -> bool:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._patches.restore()
        self._replaced.clear()
        return bool(self._patches)

    def _replace_all(self, service: Service) -> None:
        for place in service.callables:
            if place in self._replaced:
                continue
            if self._imports:
                self._replace(service, place)
            else:
                self._replaced.add(place)
                replace = functools.partial(self._replace_if_there, service, place)
                hook = ImportHook({place.partition(":")[0]: replace})
                self._hooks.append(hook)
                hook.install()

    def _replace_if_there(self, service: Service, place: str) -> None:
        with contextlib.suppress(ConfigurationError):
            self._replace(service, place)

    def _replace(self, service: Service, place: str) -> None:
        owner, name = _find(service, place)
        self._replaced.add(place)
        self._patches.replace(
            owner, name, functools.partial(self._replacement, owner, name, service.name), mocks=True
        )

    def _replacement(self, owner: Any, name: str, service: str, original: Any) -> Any:
        """`original`, with faults, bound in a class as before."""
        found = inspect.getattr_static(owner, name)
        if isinstance(found, (staticmethod, classmethod)):
            return type(found)(self._with_faults(service, found.__func__))
        if isinstance(owner, type) and not hasattr(type(found), "__get__"):
            # A mock, say: it is given no self.
            return staticmethod(self._with_faults(service, original))
        return self._with_faults(service, original)

    def _with_faults(self, service: str, original: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                self._decide(service)
                return await original(*args, **kwargs)

            return awaited

        @functools.wraps(original)
        def called(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            self._decide(service)
            return original(*args, **kwargs)

        return called

    def _decide(self, service: str) -> None:
        __tracebackhide__ = True
        effect = self._engine.decide(Operation(kind=CALL, target=service, names=(service,)))
        error = None if effect is None else effect.error(service)
        if error is not None:
            raise error


def _find(service: Service, place: str) -> tuple[Any, str]:
    """The module or class that has it, and its name there. Raises ConfigurationError."""
    module, _, path = place.partition(":")
    above, _, name = path.rpartition(".")
    try:
        owner = pkgutil.resolve_name(f"{module}:{above}" if above else module)
        found = getattr(owner, name)
    except Exception as error:  # what is imported runs
        raise ConfigurationError(
            f"service {service.name}: no {place}: {describe(error)}; write module:function or "
            "module:Class.method"
        ) from error
    if not callable(found):
        raise ConfigurationError(
            f"service {service.name}: {place} is {found!r}, and not callable; name a function, a "
            "method or a class"
        )
    return owner, name


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
        raise os_error(errno.ECONNRESET)
    if isinstance(step, (ReadReplacement, CloseConnection)):
        # A response has no form without a protocol; it is a failure all the same.
        raise ConnectionError(f"{target} failed: {effect.failure}")


def _wait(effect: Effect) -> None:
    __tracebackhide__ = True
    if effect.delay:
        hold(effect, effect.delay)
    if effect.delay == float("inf") and not effect.transient:
        raise os_error(errno.ETIMEDOUT)
